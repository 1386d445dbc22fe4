"""Every difference, to the last bit, between what a warehouse holds and what the reference computes."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from .contract import COLUMNS
from .facts import World
from .features import FEATURES, features
from .labels import LABELS, labels, segment
from .quarantine import Rejected

Key = tuple[str, datetime]
Record = Mapping[str, Any]


def same(left: Any, right: Any) -> bool:
    """Equal in type and value; doubles in every bit."""
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return type(left) is type(right) and left == right


def expected_features(
    world: World, customers: Iterable[str], moments: Iterable[datetime]
) -> dict[Key, dict[str, Any]]:
    """The reference's rows of customer_features."""
    computed = {(customer, at): features(world, customer, at) for at in moments for customer in customers}
    return {key: values for key, values in computed.items() if values is not None}


def expected_labels(
    world: World, rows: Mapping[Key, dict[str, Any]], as_of: datetime
) -> dict[Key, dict[str, Any]]:
    """The reference's rows of customer_labels: one for each row of features."""
    return {
        (customer, at): {**labels(world, customer, at, as_of), "segment": segment(values)}
        for (customer, at), values in rows.items()
    }


def differences(actual: Mapping[Key, Record], expected: Mapping[Key, Record]) -> list[str]:
    """One line a key that only one side has, and a line a value that differs."""
    lines = [f"{describe(key)}: only in the warehouse" for key in sorted(actual.keys() - expected.keys())]
    lines += [f"{describe(key)}: missing in the warehouse" for key in sorted(expected.keys() - actual.keys())]
    for key in sorted(actual.keys() & expected.keys()):
        names = [*expected[key]] + [name for name in actual[key] if name not in expected[key]]
        for name in names:
            if name not in actual[key] or name not in expected[key]:
                lines.append(f"{describe(key)}: column {name} is on one side only")
            elif not same(actual[key][name], expected[key][name]):
                lines.append(
                    f"{describe(key)}: {name} is {actual[key][name]!r}, should be {expected[key][name]!r}"
                )
    return lines


def describe(key: Key) -> str:
    """A key for people."""
    return f"{key[0]} at {key[1]:%Y-%m-%d}"


def report(lines: list[str], limit: int = 40) -> str:
    """The differences for an assertion message: which columns, which customers, and the first lines."""
    columns = Counter(line.split(": ", 1)[1].split(" ")[0] for line in lines)
    return "\n".join([f"{len(lines)} differences, by column {dict(columns)}", *lines[:limit]])


def rejected_differences(actual: Iterable[Record], expected: Iterable[Rejected]) -> list[str]:
    """Differences between quarantine.rejected_rows and the reference, the row as JSON included."""
    mine = Counter(
        (r.source_table, r.primary_key, r.reason, r.loaded_at, canonical(r.source_table, r.row))
        for r in expected
    )
    theirs = Counter()
    for row in actual:
        content = canonical(row["source_table"], json.loads(row["row_json"]))
        theirs[row["source_table"], row["primary_key"], row["reason"], row["loaded_at"], content] += 1
    lines = [
        f"rejected in the warehouse only ({count} x): {entry}" for entry, count in (theirs - mine).items()
    ]
    lines += [
        f"not rejected in the warehouse ({count} x): {entry}" for entry, count in (mine - theirs).items()
    ]
    return lines


def canonical(table: str, row: Record) -> str:
    """A row as text, the same whether it comes from Parquet or from JSON: every value in one spelling."""
    return " ".join(f"{name}={spelling(kind, row.get(name))}" for name, kind in COLUMNS[table].items())


def spelling(kind: str, value: Any) -> str:
    """One spelling of a value of this type."""
    if value is None:
        return "null"
    if kind == "timestamp":
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.isoformat(timespec="microseconds")
    if kind == "date":
        return (value if isinstance(value, date) else date.fromisoformat(value[:10])).isoformat()
    if kind == "decimal":
        return f"{Decimal(str(value)):.2f}"
    if kind == "double":
        number = float(value)
        return repr(number) if math.isfinite(number) else "not finite"
    return str(value)


__all__ = [
    "FEATURES",
    "LABELS",
    "differences",
    "expected_features",
    "expected_labels",
    "rejected_differences",
    "report",
    "same",
]
