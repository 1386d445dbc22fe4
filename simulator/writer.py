"""The raw tables as Parquet: exact types, one file a table and load, a directory that is whole or absent."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulator.config import (
    CALL_REASONS,
    CHANNELS,
    DAY,
    GRADES,
    HOUR,
    LOADS_END_HOUR,
    NULL_INTEGER,
    NULL_TIME,
    PAYMENT_STATUSES,
    SESSION_STATUSES,
    STATES,
    SUBJECTS,
    TIERS,
)

ROWS_PER_GROUP = 250_000
TIMESTAMP = pa.timestamp("us")
Batch = dict[str, np.ndarray]
"""Columns of coded rows: times int64 microseconds, categories codes (-1 is null), identifiers numbers (-1
is null).
"""


@dataclass(frozen=True)
class Column:
    """One column of a raw table and how its coded values become Arrow values."""

    name: str
    kind: str
    words: tuple[str, ...] = ()
    prefix: str = ""
    width: int = 0


def _time(name: str) -> Column:
    return Column(name, "time")


def _identifier(name: str, prefix: str, width: int) -> Column:
    return Column(name, "identifier", prefix=prefix, width=width)


def _code(name: str, words: list[str], *unknown: str) -> Column:
    return Column(name, "code", words=(*words, *unknown))


CUSTOMER = _identifier("customer_id", "C", 7)
TUTOR = _identifier("tutor_id", "T", 6)
SUBJECT = _code("subject", SUBJECTS, "astrology")
LOADED = _time("loaded_at")

TABLES: dict[str, tuple[Column, ...]] = {
    "raw_customers": (
        CUSTOMER,
        _time("signed_up_at"),
        _code("subscription_tier", TIERS, "gold"),
        _code("acquisition_channel", CHANNELS),
        _code("grade_level", GRADES),
        _time("updated_at"),
        LOADED,
    ),
    "raw_tutors": (TUTOR, _time("joined_at"), Column("subjects", "text"), _time("updated_at"), LOADED),
    "raw_sessions": (
        _identifier("session_id", "S", 11),
        CUSTOMER,
        TUTOR,
        SUBJECT,
        _time("booked_at"),
        _time("confirmed_at"),
        _time("scheduled_at"),
        _code("status", SESSION_STATUSES, "rescheduled"),
        _time("resolved_at"),
        Column("duration_minutes", "integer"),
        Column("rating", "integer"),
        _time("rated_at"),
        _time("updated_at"),
        LOADED,
    ),
    "raw_calls": (
        _identifier("call_id", "K", 11),
        CUSTOMER,
        _time("called_at"),
        _code("direction", ["inbound", "outbound"], "sideways"),
        Column("duration_seconds", "integer"),
        _code("reason", CALL_REASONS, "weather"),
        Column("sentiment_score", "double"),
        Column("escalated", "boolean"),
        LOADED,
    ),
    "raw_payments": (
        _identifier("payment_id", "P", 11),
        CUSTOMER,
        _time("attempted_at"),
        Column("amount", "money"),
        _code("currency", ["USD"]),
        _code("status", PAYMENT_STATUSES, "chargeback"),
        _time("updated_at"),
        LOADED,
    ),
    "raw_app_events": (
        _identifier("event_id", "E", 12),
        CUSTOMER,
        _time("occurred_at"),
        _code("event_type", ["login", "message_sent"], "page_view"),
        LOADED,
    ),
    "raw_tutor_availability": (
        TUTOR,
        SUBJECT,
        Column("week_start", "date"),
        Column("available_hours", "double"),
        LOADED,
    ),
}
TRUTH = (
    CUSTOMER,
    Column("week_start", "date"),
    _code("latent_state", STATES),
    Column("lapse_hazard", "double"),
    Column("true_churn_risk_14d", "double"),
    Column("true_churn_risk_30d", "double"),
)
_ARROW = {
    "time": TIMESTAMP,
    "identifier": pa.string(),
    "code": pa.string(),
    "text": pa.string(),
    "integer": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "money": pa.decimal128(12, 2),
    "date": pa.date32(),
}


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The schema of the contract for one table."""
    return pa.schema([(column.name, _ARROW[column.kind]) for column in columns])


def identifiers(prefix: str, width: int, numbers: np.ndarray) -> pa.Array:
    """Numbers (int64, -1 for null) as text such as C0000012, without a Python loop."""
    count, size = len(numbers), width + 1
    letters = np.empty((count, size), dtype=np.uint8)
    letters[:, 0] = ord(prefix)
    rest = np.maximum(numbers, 0).astype(np.int64)
    for place in range(width, 0, -1):
        rest, digit = np.divmod(rest, 10)
        letters[:, place] = digit + 48
    offsets = np.arange(0, (count + 1) * size, size, dtype=np.int32)
    valid = numbers >= 0
    mask = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters), mask)


def to_arrow(column: Column, values: np.ndarray) -> pa.Array:
    """Coded values of one column as an Arrow array of the contract's type (categories stay dictionary
    encoded).
    """
    if column.kind == "time":
        return pa.array(values, pa.int64(), mask=values == NULL_TIME).view(TIMESTAMP)
    if column.kind == "identifier":
        return identifiers(column.prefix, column.width, values)
    if column.kind == "code":
        codes = pa.array(values.astype(np.int8), mask=values < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(column.words)).cast(pa.string())
    if column.kind == "integer":
        return pa.array(values.astype(np.int32), mask=values == NULL_INTEGER)
    if column.kind == "double":
        return pa.array(values, pa.float64(), from_pandas=True)
    if column.kind == "boolean":
        return pa.array(values.astype(bool))
    if (
        column.kind == "money"
    ):  # whole cents: a 128-bit integer of two 64-bit words, the sign fills the upper one
        words = np.stack([values.astype(np.int64), values.astype(np.int64) >> 63], axis=1)
        return pa.Array.from_buffers(
            _ARROW["money"], len(values), [None, pa.py_buffer(np.ascontiguousarray(words))]
        )
    if column.kind == "date":
        return pa.array((values // DAY).astype(np.int32)).view(pa.date32())
    return pa.array(values.tolist(), pa.string())


def load_of(moments: np.ndarray) -> np.ndarray:
    """The day (int64, since 1970) of the nightly load that brings what lands at these microsecond times.

    The load of a day is complete at LOADS_END_HOUR of that day, so the file of a load never grows.
    """
    return (moments - LOADS_END_HOUR * HOUR) // DAY + 1


NOTE = "simulation.json"
"""Says, beside the tables, with which arguments they were simulated."""


class DatasetWriter:
    """Streams coded batches into ``<directory>/<table>/<day of the load>.parquet``; a context manager.

    Everything goes to ``<directory>.partial`` first and is renamed when the run is complete, so a run that
    was killed never looks like a whole one. Raises FileExistsError when the directory holds files and
    ``overwrite`` is off, or when it holds anything but raw tables.
    """

    def __init__(self, directory: Path, overwrite: bool) -> None:
        self.directory = directory
        self.partial = directory.with_name(directory.name + ".partial")
        self._columns = TABLES | {"truth": TRUTH}
        present = {path.name for path in directory.iterdir()} if directory.exists() else set()
        if present and not overwrite:
            raise FileExistsError(f"{directory} is not empty: choose another --out or add --overwrite.")
        if strangers := sorted(present - self._columns.keys() - {NOTE}):  # never remove what is not ours
            raise FileExistsError(
                f"{directory} holds more than raw tables ({strangers[0]}): choose another --out."
            )
        self._closed_before = -(10**9)
        self._pending: dict[tuple[str, int], list[Batch]] = {}
        self._pending_rows: dict[tuple[str, int], int] = {}
        self._writers: dict[tuple[str, int], pq.ParquetWriter] = {}
        self.rows = dict.fromkeys(self._columns, 0)

    def __enter__(self) -> DatasetWriter:
        shutil.rmtree(self.partial, ignore_errors=True)
        for table in self._columns:
            (self.partial / table).mkdir(parents=True)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close_before(10**9)
            for table, columns in self._columns.items():  # a table without rows still has its schema
                if not any((self.partial / table).iterdir()):
                    pq.write_table(
                        arrow_schema(columns).empty_table(), self.partial / table / "empty.parquet"
                    )
            if self.directory.exists():
                shutil.rmtree(self.directory)
            self.partial.rename(self.directory)
        else:
            for writer in self._writers.values():
                writer.close()
            shutil.rmtree(self.partial, ignore_errors=True)

    def note(self, arguments: dict[str, object]) -> None:
        """Leaves a note of the run's arguments beside the tables."""
        (self.partial / NOTE).write_text(json.dumps(arguments) + "\n")

    def add(self, table: str, batch: Batch, by: str = "loaded_at") -> None:
        """Takes rows of one table; they are split by the load that brings them at the time ``by``."""
        loads = load_of(batch[by])
        order = np.argsort(loads, kind="stable")
        days, starts = np.unique(loads[order], return_index=True)
        for day, rows in zip(days.tolist(), np.split(order, starts[1:]), strict=True):
            if day < self._closed_before:
                raise ValueError(f"{table}: the load of day {day} is closed and cannot take more rows.")
            key = (table, day)
            self._pending.setdefault(key, []).append({name: values[rows] for name, values in batch.items()})
            self._pending_rows[key] = self._pending_rows.get(key, 0) + len(rows)
            if self._pending_rows[key] >= ROWS_PER_GROUP:
                self._flush(key)

    def close_before(self, day: int) -> None:
        """Finishes the files of all loads before ``day`` (since 1970): no more rows may come for them."""
        self._closed_before = day
        for key in sorted(self._pending):
            if key[1] < day:
                self._flush(key)
        for key in sorted(self._writers):
            if key[1] < day:
                self._writers.pop(key).close()

    def _flush(self, key: tuple[str, int]) -> None:
        table, day = key
        parts = self._pending.pop(key)
        rows = self._pending_rows.pop(key)
        columns = self._columns[table]
        schema = arrow_schema(columns)
        arrays = [to_arrow(c, np.concatenate([part[c.name] for part in parts])) for c in columns]
        if key not in self._writers:
            self._writers[key] = pq.ParquetWriter(
                self.partial / table / f"{np.datetime64(day, 'D')}.parquet",
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[c.name for c in columns if c.kind in ("code", "text")],
                store_schema=False,
                coerce_timestamps="us",
            )
        self._writers[key].write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=rows)
        self.rows[table] += rows
