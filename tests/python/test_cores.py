"""Rows are shared with a second core only while it is idle, and no part is lost."""

from __future__ import annotations

import math
import threading

import pytest

from scoring.cores import ALONE_AFTER, Cores


def used_alone(count: int) -> Cores:
    """Cores that have only been called by this thread, and often enough to know it; they are never quiet."""
    cores = Cores(count, quiet_seconds=math.inf)
    for _ in range(ALONE_AFTER):
        cores.run(lambda begin, end: None, 0, block=10)
    return cores


def test_all_rows_are_done_once_whatever_is_idle() -> None:
    for count in (1, 2, 5):
        cores = used_alone(count)
        for rows in (0, 1, 9, 10, 11, 20, 21, 55):
            done: list[int] = []
            parts: list[int] = []

            def work(begin: int, end: int, done: list[int] = done, parts: list[int] = parts) -> None:
                parts.append(begin)
                done.extend(range(begin, end))

            cores.run(work, rows, block=10)
            assert sorted(done) == list(range(rows))
            assert len(parts) == (2 if count > 1 and rows > 10 else 1)
            assert all(begin % 10 == 0 for begin in parts)


def test_a_busy_core_is_left_alone() -> None:
    cores = used_alone(2)
    started, finish = threading.Event(), threading.Event()

    def long_work(begin: int, end: int) -> None:
        started.set()
        finish.wait(30)

    other = threading.Thread(target=cores.run, args=(long_work, 5, 10))
    other.start()
    assert started.wait(30)
    parts: list[int] = []
    for _ in range(ALONE_AFTER + 1):  # long enough to seem alone, but the other call is still at work
        cores.run(lambda begin, end: parts.append(begin), 40, block=10)
    finish.set()
    other.join()
    assert set(parts) == {0}
    parts.clear()
    cores.run(lambda begin, end: parts.append(begin), 40, block=10)
    assert sorted(parts) == [0, 20]


def test_threads_that_take_turns_keep_to_their_own_core() -> None:
    cores = used_alone(2)
    parts: list[int] = []
    for _ in range(3 * ALONE_AFTER):
        other = threading.Thread(
            target=cores.run, args=(lambda begin, end: parts.append(begin), 40), kwargs={"block": 10}
        )
        other.start()
        other.join()
        cores.run(lambda begin, end: parts.append(begin), 40, block=10)
    assert set(parts) == {0}


def test_the_first_call_after_a_quiet_time_is_shared() -> None:
    cores = Cores(2, quiet_seconds=0.0)
    parts: list[int] = []
    for _ in range(2):  # by two threads, each of them the first
        caller = threading.Thread(
            target=cores.run, args=(lambda begin, end: parts.append(begin), 40), kwargs={"block": 10}
        )
        caller.start()
        caller.join()
    assert sorted(parts) == [0, 0, 20, 20]
    parts.clear()
    Cores(2).run(lambda begin, end: parts.append(begin), 40, block=10)
    assert sorted(parts) == [0, 20]


@pytest.mark.parametrize("failing", [0, 20])
def test_what_either_part_raises_is_raised_and_the_cores_are_given_back(failing: int) -> None:
    cores = used_alone(2)

    def work(begin: int, end: int) -> None:
        if begin == failing:
            raise ValueError("no")

    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            cores.run(work, 40, block=10)
    parts: list[int] = []
    cores.run(lambda begin, end: parts.append(begin), 40, block=10)
    assert sorted(parts) == [0, 20]
