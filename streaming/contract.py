"""The form of an event: a row of a raw table as a JSON object, with the table's name beside its columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from feature_repo.paths import repository_root

TABLE = "table"
CUSTOMER = "customer_id"
LOADED_AT = "loaded_at"


class EventError(ValueError):
    """A line that has not the form of a raw table; the message is one sentence without its place."""


@dataclass(frozen=True)
class Column:
    """A column of a raw table, with its type in the contract's own words."""

    name: str
    data_type: str
    is_optional: bool
    is_event_time: bool
    """Whether it says when a fact happened."""


@dataclass(frozen=True)
class RawTable:
    """A raw table of the contract."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in the contract's order."""
        return tuple(column.name for column in self.columns)

    @property
    def feed(self) -> str:
        """The name without ``raw_``, as the models of staging have it."""
        return self.name.removeprefix("raw_")

    @property
    def of_customer(self) -> bool:
        """Whether its rows belong to customers, and so to their features."""
        return CUSTOMER in self.names

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its files."""
        return pa.schema([(column.name, TYPES[column.data_type].arrow) for column in self.columns])


@dataclass(frozen=True)
class Event:
    """One delivered row: its table, and its values by column, in the types of the contract."""

    table: str
    values: Mapping[str, Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _timestamp(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _date(value: Any) -> date:
    return date.fromisoformat(_text(value))


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise ValueError
    return value


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _money(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError
    amount = Decimal(value)
    # A third decimal would be rounded somewhere between the event and the warehouse.
    if not amount.is_finite() or amount != amount.quantize(Decimal("0.01")) or abs(amount) >= Decimal(10**10):
        raise ValueError
    return amount.quantize(Decimal("0.01"))


@dataclass(frozen=True)
class _Type:
    arrow: pa.DataType
    read: Callable[[Any], Any]
    expected: str


TYPES: Mapping[str, _Type] = {
    "varchar": _Type(pa.string(), _text, "a text"),
    "timestamp": _Type(pa.timestamp("us"), _timestamp, "a timestamp such as 2026-07-01T10:00:00"),
    "date": _Type(pa.date32(), _date, "a date such as 2026-07-01"),
    "integer": _Type(pa.int32(), _integer, "a whole number of 32 bits"),
    "double": _Type(pa.float64(), _double, "a number"),
    "boolean": _Type(pa.bool_(), _boolean, "true or false"),
    "decimal(12,2)": _Type(pa.decimal128(12, 2), _money, "an amount with at most two decimals"),
}


def sources_yaml() -> Path:
    """The dbt YAML file that defines the raw tables."""
    return repository_root() / "models" / "staging" / "_sources.yml"


@lru_cache(maxsize=1)
def load_contract() -> Mapping[str, RawTable]:
    """The raw tables by name, in the order of the contract (``models/staging/_sources.yml``)."""
    with sources_yaml().open(encoding="utf-8") as stream:
        tables = yaml.safe_load(stream)["sources"][0]["tables"]
    return {table["name"]: _table(table) for table in tables}


def _table(table: dict[str, Any]) -> RawTable:
    metas = {column["name"]: (column.get("config") or {}).get("meta") or {} for column in table["columns"]}
    return RawTable(
        name=table["name"],
        columns=tuple(
            Column(
                name=column["name"],
                data_type=column["data_type"],
                is_optional=bool(metas[column["name"]].get("optional")),
                is_event_time="event" in metas[column["name"]],
            )
            for column in table["columns"]
        ),
        key=tuple(name for name, meta in metas.items() if meta.get("key")),
    )


def parse_event(text: str | bytes) -> Event:
    """The event in a JSON text. Raises ``EventError`` when it has not the form of a raw table.

    A value outside the contract's lists and bounds is no error here: such a row goes into the raw feed, and
    from there into the quarantine.
    """
    try:
        row = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise EventError(f"it is no JSON object: {error}") from None
    if not isinstance(row, dict):
        raise EventError("it is no JSON object")
    contract = load_contract()
    name = row.pop(TABLE, None)
    if not isinstance(name, str) or name not in contract:
        raise EventError(f"{TABLE!r} is {name!r}; it must be one of {', '.join(contract)}")
    table = contract[name]
    unknown = sorted(set(row) - set(table.names))
    if unknown:
        raise EventError(f"{name} has no column {unknown[0]!r}")
    return Event(name, {column.name: _value(table, column, row) for column in table.columns})


def _value(table: RawTable, column: Column, row: dict[str, Any]) -> Any:
    if column.name not in row and not column.is_optional:
        raise EventError(f"column {column.name!r} of {table.name} is missing; write null for no value")
    value = row.get(column.name)
    if value is None:
        return None
    kind = TYPES[column.data_type]
    try:
        return kind.read(value)
    except (ValueError, OverflowError, InvalidOperation):
        raise EventError(
            f"column {column.name!r} of {table.name} is {_shown(value)}; it must be {kind.expected}"
        ) from None


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
