"""Who is at work: one stream at most has its folder; who has a DuckDB file open to write has it locked."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from pathlib import Path
from typing import IO

_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` of Linux on 64 bits: type, whence, start, length, process."""


class FolderInUseError(Exception):
    """Another process has the stream's folder."""


def lock_folder(folder: Path) -> IO[str]:
    """Keep others out of a stream's folder until the file that this returns is closed, or the process ends.

    Raises ``FolderInUseError`` when another process does so.
    """
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise FolderInUseError(f"A stream is running in {folder}") from None
    return lock


def is_being_written(database: Path) -> bool:
    """Whether another process has the DuckDB file open to write; it is asked for, and no lock is taken.

    DuckDB locks with `fcntl`, and dbt keeps the file open from before its first statement to its end. The
    question is Linux's; elsewhere the answer is always yes. To be asked only by a process that does not
    have the file open itself: closing any descriptor of it would end that process's own lock.
    """
    if sys.platform != "linux":
        return True
    try:
        descriptor = os.open(database, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        question = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
    finally:
        os.close(descriptor)
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK
