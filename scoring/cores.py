"""A second core for a call that would otherwise use one.

DuckDB gives each of its threads whole row groups, and a session that only reads has a thread each 122,880
rows: a small table, or in such a session a night's customers, is scored by one thread. Its calls then share
their rows with a second core. Where several threads call, they are busy between their calls too, and a share
would only take time from one of them.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

# So many calls in a row by one thread say that no other thread is calling.
ALONE_AFTER = 8
# So many seconds without a call say the same of the first thread that calls then: a new statement begins.
QUIET_SECONDS = 0.03


class Cores:
    """The cores of this machine, shared by calls from several threads."""

    def __init__(self, count: int | None = None, quiet_seconds: float = QUIET_SECONDS) -> None:
        """`count` defaults to the cores that this process may use."""
        self._idle = count or _usable()
        self._quiet_seconds = quiet_seconds
        self._caller: int | None = None
        self._calls_in_a_row = 0
        self._last_ended = -math.inf
        self._changing = threading.Lock()
        self._helpers = ThreadPoolExecutor(self._idle, thread_name_prefix="scoring")

    def run(self, work: Callable[[int, int], None], rows: int, block: int) -> None:
        """Call `work(begin, end)` for all rows: in two parts of whole blocks where a second core is idle.

        `work` must release the GIL to gain by it. What it raises is raised here, after both parts ended.
        """
        middle = -(-rows // (2 * block)) * block
        taken = self._take(2 if self._is_alone() and middle < rows else 1)
        try:
            if taken < 2:
                work(0, rows)
                return
            rest = self._helpers.submit(work, middle, rows)
            try:
                work(0, middle)
            finally:
                rest.result()
        finally:
            self._give(taken)

    def _is_alone(self) -> bool:
        """Whether the thread that calls now was the only one to do so for a while."""
        with self._changing:
            caller = threading.get_ident()
            if time.monotonic() - self._last_ended > self._quiet_seconds:
                self._calls_in_a_row = ALONE_AFTER
            else:
                self._calls_in_a_row = self._calls_in_a_row + 1 if caller == self._caller else 0
            self._caller = caller
            return self._calls_in_a_row >= ALONE_AFTER

    def _take(self, wanted: int) -> int:
        with self._changing:
            taken = min(wanted, self._idle)
            self._idle -= taken
            return taken

    def _give(self, taken: int) -> None:
        with self._changing:
            self._idle += taken
            self._last_ended = time.monotonic()


def _usable() -> int:
    # Not os.cpu_count(): a container may be allowed fewer. macOS cannot tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
