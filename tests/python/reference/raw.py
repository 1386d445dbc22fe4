"""Read a raw directory into plain lists of dicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .contract import COLUMNS

Row = dict[str, Any]
Raw = dict[str, list[Row]]


def read_raw(directory: Path) -> Raw:
    """All rows of all Parquet files of the seven tables; a missing column reads as null."""
    raw: Raw = {}
    for table, columns in COLUMNS.items():
        raw[table] = []
        for path in sorted((Path(directory) / table).glob("*.parquet")):
            for row in _microseconds(pq.ParquetFile(path).read()).to_pylist():
                raw[table].append({name: row.get(name) for name in columns})
    return raw


def _microseconds(data: pa.Table) -> pa.Table:
    """Every timestamp as naive microseconds, so that it reads as datetime.datetime."""
    fields = [
        pa.field(field.name, pa.timestamp("us") if pa.types.is_timestamp(field.type) else field.type)
        for field in data.schema
    ]
    return data.cast(pa.schema(fields))
