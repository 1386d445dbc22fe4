"""Appending to the raw feed, in files that the nightly build reads.

One file a table and day grows: it is written anew under another name, flushed to the disk and renamed, so a
reader sees the file before or after, never a part. After ``ROWS_A_FILE`` rows a further file is begun, which
bounds what an event costs however many come in a day. The night's ledger knows a file by size and time of
change, so what has grown is read again, and rows that it knew count once (docs/decisions.md, "Increments").

While a night reads, nothing that it may have listed is replaced: DuckDB opens a file several times in one
statement, and fails when it is another one the second time. Each batch then has a file of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.files import sync, whole_file
from streaming.contract import Event, RawTable, load_contract

ROWS_A_FILE = 10_000
"""Rewriting a file of so many rows takes 6 to 15 ms (raw_sessions, the widest table); a folder gets a file
more for each.
"""


class RawFeed:
    """The raw tables below a directory, to append to; `is_being_read` tells whether a build is at work."""

    def __init__(self, directory: Path, is_being_read: Callable[[], bool]) -> None:
        self.directory = directory
        self._is_being_read = is_being_read
        self._growing: dict[tuple[str, date], tuple[int, pa.Table]] = {}

    def append(self, events: Iterable[Event], day: date) -> None:
        """Make the events durable in the files of ``day``; when this returns they are on the disk."""
        rows: dict[str, list[Mapping]] = {}
        for event in events:
            rows.setdefault(event.table, []).append(event.values)
        for name, values in rows.items():
            table = load_contract()[name]
            self._append(table, day, pa.Table.from_pylist(values, schema=table.schema))

    def _append(self, table: RawTable, day: date, rows: pa.Table) -> None:
        number, held = self._last_file(table, day)
        if 0 < held.num_rows < ROWS_A_FILE and not self._is_being_read():
            grown = pa.concat_tables([held, rows]).combine_chunks()
            # A build lists the files some time after it has locked the warehouse: so it is asked at the
            # last moment.
            is_written = write_table(self._path(table, day, number), grown, unless=self._is_being_read)
        else:
            is_written = False
        if not is_written:
            number, grown = number + 1, rows
            write_table(self._path(table, day, number), grown)
        # Yesterday's files grow again only when something of yesterday is late; they are read back then.
        self._growing = {key: value for key, value in self._growing.items() if key[1] == day}
        self._growing[table.name, day] = (number, grown)

    def _last_file(self, table: RawTable, day: date) -> tuple[int, pa.Table]:
        if (table.name, day) in self._growing:
            return self._growing[table.name, day]
        numbers = [
            int(match[1])
            for path in (self.directory / table.name).glob(f"stream-{day}-*.parquet")
            if (match := re.fullmatch(rf"stream-{day}-(\d+)\.parquet", path.name))
        ]
        if not numbers:
            return 0, table.schema.empty_table()
        number = max(numbers)
        return number, pq.ParquetFile(self._path(table, day, number)).read().cast(table.schema)

    def _path(self, table: RawTable, day: date, number: int) -> Path:
        return self.directory / table.name / f"stream-{day}-{number:04}.parquet"


class _Refused(Exception):  # noqa: N818 - nothing went wrong
    """The file must not be replaced now."""


def write_table(path: Path, table: pa.Table, unless: Callable[[], bool] = lambda: False) -> bool:
    """Write a Parquet file so that it is there in full or not at all, and still there after a power cut.

    Returns False, with all as it was, when `unless` holds at the last moment.
    """
    try:
        with whole_file(path) as file:
            pq.write_table(table, file, compression="zstd")
            sync(file)  # now, so that nothing takes time after the question
            if unless():
                raise _Refused
    except _Refused:
        return False
    return True
