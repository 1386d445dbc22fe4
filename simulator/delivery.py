"""How rows travel to the warehouse: when each version lands, which arrive late, twice, or broken."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from simulator.config import (
    CALL_REASONS,
    DAY,
    HOUR,
    MINUTE,
    NULL_TIME,
    PAYMENT_STATUSES,
    SESSION_STATUSES,
    SUBJECTS,
    TIERS,
    Config,
    microseconds,
)
from simulator.customers import Customers
from simulator.writer import Batch, DatasetWriter

KEY_OF = {
    "raw_customers": "customer_id",
    "raw_tutors": "tutor_id",
    "raw_sessions": "session_id",
    "raw_calls": "call_id",
    "raw_payments": "payment_id",
    "raw_app_events": "event_id",
    "raw_tutor_availability": "tutor_id",
}
EVENT_OF = {
    "raw_customers": "updated_at",
    "raw_sessions": "booked_at",
    "raw_calls": "called_at",
    "raw_payments": "attempted_at",
    "raw_app_events": "occurred_at",
}
UNKNOWN_WORD = {
    "raw_customers": ("subscription_tier", len(TIERS)),
    "raw_sessions": ("status", len(SESSION_STATUSES)),
    "raw_calls": ("reason", len(CALL_REASONS)),
    "raw_payments": ("status", len(PAYMENT_STATUSES)),
    "raw_app_events": ("event_type", 2),
    "raw_tutor_availability": ("subject", len(SUBJECTS)),
}
_ALL = (
    "missing_key",
    "unknown_customer",
    "missing_timestamp",
    "unknown_value",
    "out_of_range",
    "event_after_load",
    "event_before_signup",
)
REASONS = {
    "raw_customers": tuple(r for r in _ALL if r not in ("unknown_customer", "out_of_range")),
    "raw_tutors": ("missing_key", "unknown_value"),
    "raw_sessions": _ALL,
    "raw_calls": _ALL,
    "raw_payments": _ALL,
    "raw_app_events": tuple(r for r in _ALL if r != "out_of_range"),
    "raw_tutor_availability": ("missing_key", "unknown_value", "out_of_range"),
}
"""Reasons of the contract that can befall a table."""
_BROKEN_NUMBER = {"raw_customers": 9_990_000, "raw_tutors": 990_000}
_UNKNOWN_CUSTOMER = 9_800_000


def join(parts: list[Batch]) -> Batch:
    """Rows of several batches with the same columns, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def take(batch: Batch, rows: np.ndarray) -> Batch:
    """The chosen rows (indices or mask) of a batch, as copies."""
    return {name: values[rows].copy() for name, values in batch.items()}


def size(batch: Batch) -> int:
    """Rows in a batch."""
    return len(next(iter(batch.values())))


@dataclass
class Dispatcher:
    """Decides ``loaded_at`` and hands rows to the writer. One a run; deterministic in the order of its
    calls.
    """

    config: Config
    customers: Customers
    writer: DatasetWriter
    broken: int = 0
    seen_reasons: dict[str, set[str]] = field(default_factory=lambda: {table: set() for table in KEY_OF})

    def __post_init__(self) -> None:
        self.first_moment = microseconds(self.config.start)
        self.cut = microseconds(self.config.end) + self.config.delivery.quiet_until_hour * HOUR

    def loaded_at(
        self, rng: np.random.Generator, moment: np.ndarray, after: np.ndarray | None = None
    ) -> np.ndarray:
        """When versions written at ``moment`` land (both int64 microseconds), each later than ``after``.

        Nothing of a new day lands before the quiet hours of its night are over: what the nightly load of a
        midnight finds happened before that midnight.
        """
        rules = self.config.delivery
        n = len(moment)
        delay = np.exp(np.log(rules.median_delay_minutes) + rules.delay_spread * rng.standard_normal(n))
        delay = delay.clip(2, rules.longest_delay_hours * 60)
        late = rng.random(n) < rules.late_share
        days = rng.random(n) * (rules.latest_days - 1) + 1.05
        delay = (delay * MINUTE + np.where(late, days * DAY, 0)).astype(np.int64)
        loaded = moment + delay
        quiet_over = moment // DAY * DAY + rules.quiet_until_hour * HOUR
        loaded = np.where(
            (moment < quiet_over) & (loaded < quiet_over), quiet_over + delay % (2 * HOUR) + MINUTE, loaded
        )
        if after is not None:
            loaded = np.maximum(loaded, after + 90 * 1_000_000)
        return loaded

    def send(self, rng: np.random.Generator, table: str, batch: Batch, breakable: bool = True) -> None:
        """Delivers rows that carry their ``loaded_at``, repeats a few of them and adds a few that break the
        contract.
        """
        n = size(batch)
        if n == 0:
            return
        repeated = rng.random(n) < self.config.delivery.repeated_share
        parts = [batch]
        if repeated.any():
            parts.append(take(batch, repeated))
        if breakable:
            broken = self._break_contract(rng, table, batch)
            if broken is not None:
                parts.append(broken)
        rows = join(parts) if len(parts) > 1 else batch
        arrived = rows["loaded_at"] < self.cut
        if not arrived.all():
            rows = {name: values[arrived] for name, values in rows.items()}
        if size(rows):
            self.writer.add(table, rows)

    def _break_contract(self, rng: np.random.Generator, table: str, batch: Batch) -> Batch | None:
        reasons = REASONS[table]
        count = int(rng.binomial(size(batch), self.config.delivery.broken_share))
        chosen = [reasons[i] for i in rng.integers(0, len(reasons), count)]
        missing = [r for r in reasons if r not in self.seen_reasons[table]]
        if missing:  # every reason occurs once early on, however small the marketplace
            chosen.append(missing[0])
        if not chosen:
            return None
        rows = take(batch, rng.integers(0, size(batch), len(chosen)))
        why = np.array(chosen)
        self.seen_reasons[table].update(chosen)
        key = KEY_OF[table]
        numbers = self.broken + np.arange(len(chosen))
        self.broken += len(chosen)
        if table in _BROKEN_NUMBER:
            rows[key] = (_BROKEN_NUMBER[table] + numbers % 10_000).astype(rows[key].dtype)
        elif table != "raw_tutor_availability":
            digits = 10 ** (5 if table == "raw_app_events" else 4)
            rows[key] = 9_990_000 * digits + numbers
        else:
            rows[key] = (990_000 + numbers % 10_000).astype(rows[key].dtype)
        rows[key][why == "missing_key"] = -1
        if "customer_id" in rows:
            unknown = why == "unknown_customer"
            rows["customer_id"][unknown] = _UNKNOWN_CUSTOMER + numbers[unknown] % 100_000
        strange = why == "unknown_value"
        if table == "raw_tutors":
            rows["subjects"][strange] = "algebra_1,astrology"
        else:
            column, code = UNKNOWN_WORD[table]
            rows[column][strange] = code
        wild = why == "out_of_range"
        if wild.any():
            self._put_out_of_range(table, rows, wild)
        if table in EVENT_OF:
            event = EVENT_OF[table]
            required = "signed_up_at" if table == "raw_customers" else event
            rows[required][why == "missing_timestamp"] = NULL_TIME
            after = why == "event_after_load"
            rows[event][after] = rows["loaded_at"][after] + 3 * DAY
            before = why == "event_before_signup"
            if before.any():
                if table == "raw_customers":
                    signup = rows["signed_up_at"][before]
                else:
                    signup = self.customers.signed_up_at[rows["customer_id"][before] - 1]
                rows[event][before] = signup - 40 * DAY
        return rows

    @staticmethod
    def _put_out_of_range(table: str, rows: Batch, wild: np.ndarray) -> None:
        if table == "raw_sessions":
            rows["rating"][wild] = 7
            rows["rated_at"][wild] = rows["updated_at"][wild]
        elif table == "raw_calls":
            rows["sentiment_score"][wild] = -3.0
        elif table == "raw_payments":
            rows["amount"][wild] = -rows["amount"][wild] - 100
        elif table == "raw_tutor_availability":
            rows["available_hours"][wild] = -5.0
