"""Files that are there in full or not at all, also after a power cut."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from feature_repo.paths import PARTIAL


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, in bytes, which takes the place of `path` when the `with` block has ended.

    A reader sees what was there before or the whole new file. When the block raises, `path` stays as it was.
    Missing folders are made. Everyone may read the file, as other users may run dbt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=PARTIAL, dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            sync(file)
        draft.chmod(0o644)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, text: str) -> None:
    """`whole_file` for a text, in UTF-8 and with its own line ends on every platform."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def sync(file: IO[Any]) -> None:
    """Wait until what was written to an open file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk: before that, no rename in it is for good."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
