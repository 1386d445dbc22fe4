"""The raw files that there are, for the SQL function `raw_files` (macros/raw_contract.sql) and the stream."""

import os
from pathlib import Path
from typing import TypedDict

FILES_TYPE = "struct(file varchar[], size bigint[], modified_at bigint[])"
"""What DuckDB takes the answer of `raw_files` for."""


class RawFiles(TypedDict):
    """Files, with what tells whether they changed: lists of the same length."""

    file: list[str]
    size: list[int]
    modified_at: list[int]


def raw_files(directory: str) -> RawFiles:
    """The Parquet and CSV files in the folders `raw_*` of a directory; none if it does not exist.

    Sizes are in bytes, times in whole seconds since 1970, as DuckDB's `read_blob` gives them; it opens every
    file to say so, which takes four times as long.
    """
    entries = [
        entry
        for folder in Path(directory).glob("raw_*/")
        for entry in os.scandir(folder)
        if entry.name.endswith((".parquet", ".csv")) and entry.is_file()
    ]
    stats = [entry.stat() for entry in entries]
    return RawFiles(
        file=[entry.path for entry in entries],
        size=[stat.st_size for stat in stats],
        modified_at=[int(stat.st_mtime) for stat in stats],
    )
