"""Which snapshot times a run covers (interface.md)."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from .contract import COLUMNS, DAY
from .facts import World
from .raw import Raw

FIRST_SNAPSHOT_AFTER = timedelta(days=120)


def default_as_of(raw: Raw) -> datetime:
    """The last midnight by which all raw tables had landed."""
    landed = []
    for table in COLUMNS:
        loads = [row["loaded_at"] for row in raw[table] if row["loaded_at"] is not None]
        if loads:
            landed.append(max(loads))
    return datetime.combine(min(landed).date(), time.min)


def snapshots(world: World, as_of: datetime, daily_from: datetime | None = None) -> list[datetime]:
    """Every Monday from 120 days after the first signup to as_of, every day from `daily_from`, and as_of
    itself.
    """
    start = min(row["signed_up_at"] for row in world.judged.valid["raw_customers"]) + FIRST_SNAPSHOT_AFTER
    moments = {as_of}
    midnight = datetime.combine(start.date(), time.min)
    while midnight <= as_of:
        if midnight >= start and (
            midnight.weekday() == 0 or (daily_from is not None and midnight >= daily_from)
        ):
            moments.add(midnight)
        midnight += DAY
    return sorted(moments)
