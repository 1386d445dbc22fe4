"""Which deliveries count once, and which rows break the contract (raw-tables.md, last section)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .contract import (
    CALL_DIRECTIONS,
    CALL_REASONS,
    CHANNEL_CODE,
    COLUMNS,
    DAY,
    EVENT_TYPES,
    GRADE_CODE,
    PAYMENT_STATUSES,
    PRIMARY_KEY,
    SESSION_STATUSES,
    SUBJECT_CODE,
    TIER_CODE,
)
from .raw import Raw, Row

BEGINNING = datetime.min


@dataclass(frozen=True)
class Rejected:
    """One row of quarantine.rejected_rows."""

    source_table: str
    primary_key: str | None
    reason: str
    row: Row
    loaded_at: datetime | None


@dataclass
class Judged:
    """The raw rows, parted into valid and rejected ones, each delivery once."""

    valid: Raw = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)


def judge(raw: Raw) -> Judged:
    """Check each row, then keep each delivery once, among the valid rows and among the rejected ones."""
    known = {row["customer_id"] for row in raw["raw_customers"]} - {None}
    judged = Judged()
    signups: dict[str, list[Row]] = {}  # customer -> its valid versions; raw_customers is the first table
    for table in COLUMNS:
        valid, rejected = [], []
        for row in raw[table]:
            reason = first_failing_reason(table, row, known, signups)
            if reason is None:
                valid.append(row)
            else:
                rejected.append(row)
        judged.valid[table] = unique_deliveries(table, valid)
        for row in unique_deliveries(table, rejected):
            reason = first_failing_reason(table, row, known, signups)
            judged.rejected.append(
                Rejected(table, primary_key_text(table, row), reason, row, row["loaded_at"])
            )
        if table == "raw_customers":
            for row in sorted(judged.valid[table], key=version_order):
                signups.setdefault(row["customer_id"], []).append(row)
    return judged


def unique_deliveries(table: str, rows: list[Row]) -> list[Row]:
    """One row a (primary key, loaded_at): the greatest.

    Where loaded_at is null, updated_at tells versions apart. A key with a null in it identifies nothing:
    whole rows do.
    """
    kept: dict[tuple, Row] = {}
    for row in rows:
        key = primary_key(table, row)
        if None in key:
            delivery = ("whole row", *(repr(row[name]) for name in COLUMNS[table]))
        elif row["loaded_at"] is None:
            delivery = ("never loaded", *key, row.get("updated_at"))
        else:
            delivery = ("loaded", *key, row["loaded_at"])
        if delivery not in kept or greatness(table, row) > greatness(table, kept[delivery]):
            kept[delivery] = row
    return list(kept.values())


def greatness(table: str, row: Row) -> list[tuple]:
    """How conflicting repetitions of one delivery are ranked: updated_at first, then the columns as they
    stand.
    """
    names = [name for name in ("updated_at",) if name in row] + list(COLUMNS[table])
    return [value_rank(row[name]) for name in names]


def value_rank(value: Any) -> tuple:
    """Null is least, NaN greatest."""
    if value is None:
        return (0, 0)
    if isinstance(value, float) and math.isnan(value):
        return (2, 0)
    return (1, value)


def primary_key(table: str, row: Row) -> tuple:
    """The values of the primary key."""
    return tuple(row[name] for name in PRIMARY_KEY[table])


def primary_key_text(table: str, row: Row) -> str | None:
    """The primary key as rejected_rows shows it."""
    key = primary_key(table, row)
    if len(key) == 1:
        return key[0]
    return "|".join("" if value is None else str(value) for value in key)


def first_failing_reason(table: str, row: Row, known: set[str], signups: dict[str, list[Row]]) -> str | None:
    """The first reason, in the order of the contract, why this version is rejected; None when it is valid."""
    about_customer = "customer_id" in COLUMNS[table]
    if None in primary_key(table, row) or (about_customer and row["customer_id"] is None):
        return "missing_key"
    if about_customer and row["customer_id"] not in known:
        return "unknown_customer"
    if any(row[name] is None for name in required_timestamps(table, row)):
        return "missing_timestamp"
    if has_unknown_value(table, row):
        return "unknown_value"
    if is_out_of_range(row):
        return "out_of_range"
    events = fact_times(table, row)
    if row["loaded_at"] is not None and any(event > row["loaded_at"] + DAY for event in events):
        return "event_after_load"
    signed_up_at = signup_to_judge_by(table, row, signups)
    if signed_up_at is not None and any(event < signed_up_at - DAY for event in events):
        return "event_before_signup"
    return None


def required_timestamps(table: str, row: Row) -> list[str]:
    """The timestamps that this version may not lack."""
    if table == "raw_customers":
        return ["signed_up_at"]
    if table == "raw_sessions":
        names = ["booked_at", "scheduled_at"]
        if row["status"] != "scheduled":
            names.append("resolved_at")
        if row["rating"] is not None:
            names.append("rated_at")
        return names
    return {
        "raw_calls": ["called_at"],
        "raw_payments": ["attempted_at"],
        "raw_app_events": ["occurred_at"],
    }.get(table, [])


def has_unknown_value(table: str, row: Row) -> bool:
    """Whether a value lies outside its list. Only tier, channel and grade may be null."""
    if table == "raw_customers":
        return (
            row["subscription_tier"] not in {None, *TIER_CODE}
            or row["acquisition_channel"] not in {None, *CHANNEL_CODE}
            or row["grade_level"] not in {None, *GRADE_CODE}
        )
    if table == "raw_tutors":
        return row["subjects"] is None or any(name not in SUBJECT_CODE for name in row["subjects"].split(","))
    if table == "raw_sessions":
        return row["status"] not in SESSION_STATUSES or row["subject"] not in SUBJECT_CODE
    if table == "raw_calls":
        return row["direction"] not in CALL_DIRECTIONS or row["reason"] not in CALL_REASONS
    if table == "raw_payments":
        return row["status"] not in PAYMENT_STATUSES
    if table == "raw_app_events":
        return row["event_type"] not in EVENT_TYPES
    return row["subject"] not in SUBJECT_CODE  # raw_tutor_availability


def is_out_of_range(row: Row) -> bool:
    """Whether a number lies outside its range. Null does not; NaN does."""
    rating, sentiment = row.get("rating"), row.get("sentiment_score")
    if rating is not None and not 1 <= rating <= 5:
        return True
    if sentiment is not None and not -1 <= sentiment <= 1:
        return True
    for name in ("amount", "duration_minutes", "duration_seconds", "available_hours"):
        if row.get(name) is not None and not row[name] >= 0:
            return True
    return False


def fact_times(table: str, row: Row) -> list[datetime]:
    """event_at of every fact that this version carries."""
    if table == "raw_customers":
        times = [row["signed_up_at"], row["updated_at"]]
    elif table == "raw_sessions":
        times = [row["booked_at"], row["confirmed_at"]]
        if row["status"] != "scheduled":
            times.append(row["resolved_at"])
        if row["rating"] is not None:
            times.append(row["rated_at"])
    elif table == "raw_calls":
        times = [row["called_at"]]
    elif table == "raw_payments":
        times = [row["attempted_at"]]
    elif table == "raw_app_events":
        times = [row["occurred_at"]]
    else:
        times = []
    return [time for time in times if time is not None]


def signup_to_judge_by(table: str, row: Row, signups: dict[str, list[Row]]) -> datetime | None:
    """The signed_up_at that event_before_signup compares with: as the customer's first valid version told it.

    A correction of signed_up_at that comes later changes the tenure from then on, but never the verdict on
    rows that earlier snapshots have counted. A customer version is judged by its own signed_up_at.
    """
    if table == "raw_customers":
        return row["signed_up_at"]
    versions = signups.get(row.get("customer_id"), [])
    return versions[0]["signed_up_at"] if versions else None


def load_moment(row: Row) -> datetime:
    """loaded_at, where a missing one counts as before all time."""
    return row["loaded_at"] or BEGINNING


def version_order(row: Row) -> tuple[datetime, datetime]:
    """Versions of a row, oldest first: by loaded_at, then by updated_at."""
    return load_moment(row), row.get("updated_at") or BEGINNING
