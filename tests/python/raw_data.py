"""Small raw data sets for tests: a builder of contract-true rows, the hand-made hard cases, random nasty
worlds.

Every id carries the name of its case or world, so that any number of them can share one raw directory, one
warehouse and one comparison. Snapshots start on Monday 2025-09-01, 120 days after the first signup
(`case_anchor`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from reference import COLUMNS, PRIMARY_KEY, SUBJECTS, Row

US = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
GRACE = 6 * HOUR

#: the Monday at which most hard cases look, the first snapshot of all, and the last one
D = datetime(2025, 10, 6)
FIRST_SNAPSHOT = datetime(2025, 9, 1)
AS_OF = datetime(2026, 1, 5)
ANCHOR_SIGNUP = datetime(2025, 5, 4)
#: the default signup: 65 whole days before D, so in scope there without anything else
SIGNUP = datetime(2025, 8, 1, 10)

ARROW_TYPES = {
    "text": pa.string(),
    "timestamp": pa.timestamp("us"),
    "integer": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "decimal": pa.decimal128(12, 2),
    "date": pa.date32(),
}


def night_after(moment: datetime) -> datetime:
    """The nightly load that brings what happened at `moment` in time for the next midnight's snapshot."""
    return datetime.combine(moment.date(), time.min) + DAY + 2 * HOUR


@dataclass
class RawData:
    """Rows of the seven raw tables, in the order of delivery."""

    tables: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in COLUMNS})

    def add(self, table: str, row: Row, *happened: datetime | None, **changes: Any) -> Row:
        """Append a row; without a loaded_at it comes with the night after the last thing that happened."""
        row = {**row, **changes}
        if "loaded_at" not in row:
            row["loaded_at"] = night_after(max(moment for moment in happened if moment is not None))
        assert row.keys() == COLUMNS[table].keys(), row.keys() ^ COLUMNS[table].keys()
        self.tables[table].append(row)
        return row

    def customer(self, customer_id: str, signed_up_at: datetime = SIGNUP, /, **changes: Any) -> Row:
        """A customer version; its profile took effect at signup."""
        row = {
            "customer_id": customer_id,
            "signed_up_at": signed_up_at,
            "subscription_tier": "standard",
            "acquisition_channel": "referral",
            "grade_level": "high_school",
            "updated_at": signed_up_at,
        }
        updated_at = changes.get("updated_at", signed_up_at)
        return self.add("raw_customers", row, signed_up_at, updated_at, **changes)

    def tutor(self, tutor_id: str, /, **changes: Any) -> Row:
        """A tutor version."""
        joined_at = datetime(2025, 5, 1)
        row = {
            "tutor_id": tutor_id,
            "joined_at": joined_at,
            "subjects": "algebra_1,geometry",
            "updated_at": joined_at,
        }
        return self.add("raw_tutors", row, joined_at, **changes)

    def session(
        self, session_id: str, customer_id: str, resolved_at: datetime | None, /, **changes: Any
    ) -> Row:
        """A session version: completed at `resolved_at`, or scheduled (say for when) where that is None."""
        happened = resolved_at or changes["scheduled_at"]
        booked_at = changes.get("booked_at", happened - 3 * DAY)
        row = {
            "session_id": session_id,
            "customer_id": customer_id,
            "tutor_id": f"{customer_id}_tutor",
            "subject": "algebra_1",
            "booked_at": booked_at,
            "confirmed_at": None,
            "scheduled_at": happened - HOUR,
            "status": "completed" if resolved_at else "scheduled",
            "resolved_at": resolved_at,
            "duration_minutes": 60
            if resolved_at and changes.get("status", "completed") == "completed"
            else None,
            "rating": None,
            "rated_at": None,
        }
        known = [booked_at, resolved_at, changes.get("confirmed_at"), changes.get("rated_at")]
        row["updated_at"] = max(moment for moment in known if moment is not None)
        return self.add("raw_sessions", row, *known, **changes)

    def again(self, table: str, earlier: Row, loaded_at: datetime | None, **changes: Any) -> Row:
        """A later version of a row that was delivered before."""
        if "updated_at" in earlier and "updated_at" not in changes and loaded_at is not None:
            changes["updated_at"] = loaded_at - HOUR
        return self.add(table, earlier, loaded_at=loaded_at, **changes)

    def call(self, call_id: str, customer_id: str, called_at: datetime, /, **changes: Any) -> Row:
        """An inbound call without sentiment."""
        row = {
            "call_id": call_id,
            "customer_id": customer_id,
            "called_at": called_at,
            "direction": "inbound",
            "duration_seconds": 120,
            "reason": "billing",
            "sentiment_score": None,
            "escalated": False,
        }
        return self.add("raw_calls", row, called_at, **changes)

    def payment(
        self, payment_id: str, customer_id: str, attempted_at: datetime, amount: str | None, /, **changes: Any
    ) -> Row:
        """A payment that succeeded."""
        row = {
            "payment_id": payment_id,
            "customer_id": customer_id,
            "attempted_at": attempted_at,
            "amount": None if amount is None else Decimal(amount),
            "currency": "USD",
            "status": "succeeded",
            "updated_at": attempted_at,
        }
        return self.add("raw_payments", row, attempted_at, **changes)

    def event(self, event_id: str, customer_id: str, occurred_at: datetime, /, **changes: Any) -> Row:
        """A login."""
        row = {
            "event_id": event_id,
            "customer_id": customer_id,
            "occurred_at": occurred_at,
            "event_type": "login",
        }
        return self.add("raw_app_events", row, occurred_at, **changes)

    def availability(self, tutor_id: str | None, /, **changes: Any) -> Row:
        """A week of a tutor."""
        row = {
            "tutor_id": tutor_id,
            "subject": "algebra_1",
            "week_start": date(2025, 9, 1),
            "available_hours": 10.0,
        }
        return self.add("raw_tutor_availability", row, datetime(2025, 8, 28, 12), **changes)

    # --- whole data sets ----------------------------------------------------------------------------------

    def __add__(self, other: RawData) -> RawData:
        return RawData({table: self.tables[table] + other.tables[table] for table in COLUMNS})

    def copy(self) -> RawData:
        """A copy that shares no list and no row."""
        return copy.deepcopy(self)

    def arrived_by(self, midnight: datetime) -> RawData:
        """What had landed when the nightly job of `midnight` ran."""
        return self.where(lambda row: row["loaded_at"] is None or row["loaded_at"] < midnight + GRACE)

    def where(self, keep: Callable[[Row], bool]) -> RawData:
        """The rows for which `keep` holds."""
        return RawData({table: [row for row in rows if keep(row)] for table, rows in self.tables.items()})

    def landed_between(self, after: datetime | None, midnight: datetime) -> RawData:
        """What the nightly job of `midnight` found new when the one before it ran at `after`."""
        before = self.arrived_by(after) if after is not None else RawData()
        seen = {id(row) for rows in before.tables.values() for row in rows}
        return self.arrived_by(midnight).where(lambda row: id(row) not in seen)

    def write(
        self, directory: Path, *, without_loaded_at: Iterable[str] = (), seed: int = 0, name: str = "part"
    ) -> Path:
        """Write <directory>/<table>/<name>-*.parquet: rows shuffled over two files, so that no order can be
        relied on.
        """
        shuffle = np.random.default_rng(seed)
        for table, rows in self.tables.items():
            fields = {name: ARROW_TYPES[kind] for name, kind in COLUMNS[table].items()}
            if table in set(without_loaded_at):
                del fields["loaded_at"]
            mixed = [{name: rows[i][name] for name in fields} for i in shuffle.permutation(len(rows))]
            folder = Path(directory) / table
            folder.mkdir(parents=True, exist_ok=True)
            half = (len(mixed) + 1) // 2
            for number, part in enumerate((mixed[:half], mixed[half:])):
                data = pa.Table.from_pylist(part, schema=pa.schema(list(fields.items())))
                pq.write_table(data, folder / f"{name}-{number}.parquet")
        return Path(directory)


# === Hard cases ===========================================================================================


@dataclass(frozen=True)
class Expect:
    """Hand-computed feature values of a customer at a snapshot time; None: not in scope there."""

    customer_id: str
    at: datetime
    values: dict[str, int | float] | None


Case = Callable[[RawData], list[Expect]]
HARD_CASES: dict[str, Case] = {}


def hard_case(function: Case) -> Case:
    """Register a hard case; its docstring says what is hard about it."""
    HARD_CASES[function.__name__.removeprefix("case_")] = function
    return function


def hard_cases() -> tuple[RawData, list[Expect]]:
    """All hard cases in one data set, with what is expected of them."""
    raw, expected = RawData(), []
    for case in HARD_CASES.values():
        expected += case(raw)
    return raw, expected


@hard_case
def case_anchor(raw: RawData) -> list[Expect]:
    """The first signup of all: snapshots start 120 days after it, on Monday 2025-09-01; then it falls out
    of scope.
    """
    raw.customer("anchor", ANCHOR_SIGNUP)
    raw.tutor("anchor_tutor")
    raw.availability("anchor_tutor")
    return [Expect("anchor", FIRST_SNAPSHOT, None)]


@hard_case
def case_event_at_the_snapshot(raw: RawData) -> list[Expect]:
    """Events at exactly D are not visible at D and lie in the window of D + 7; one microsecond before: the
    reverse.
    """
    for name, moment in (("edge_at", D), ("edge_before", D - US)):
        raw.customer(name)
        raw.session(
            f"{name}_s", name, moment, confirmed_at=moment, rating=2, rated_at=moment, loaded_at=D + HOUR
        )
        raw.event(f"{name}_l", name, moment, loaded_at=D + HOUR)
        raw.event(f"{name}_m", name, moment, loaded_at=D + HOUR, event_type="message_sent")
        raw.call(f"{name}_c", name, moment, loaded_at=D + HOUR, sentiment_score=-0.5)
        raw.payment(f"{name}_p", name, moment, "10.10", loaded_at=D + HOUR)
    seen = {
        "session_count_7d": 1,
        "avg_rating_7d": 2.0,
        "login_count_7d": 1,
        "message_count_7d": 1,
        "active_days_7d": 1,
        "ib_call_count_7d": 1,
        "negative_calls_7d": 1,
        "payment_amount_7d": 10.1,
        "avg_tutor_response_time_hours": 72.0,
    }
    unseen = {
        "session_count_7d": 0,
        "login_count_7d": 0,
        "message_count_7d": 0,
        "active_days_7d": 0,
        "ib_call_count_7d": 0,
        "negative_calls_7d": 0,
        "payment_amount_7d": 0.0,
    }
    nothing_yet = {"avg_rating_7d": 4.0, "avg_tutor_response_time_hours": 4.0, "days_since_last_session": 999}
    return [
        Expect("edge_at", D, unseen | nothing_yet),
        Expect("edge_at", D + 7 * DAY, seen | {"days_since_last_session": 7, "session_count_14d": 1}),
        Expect("edge_before", D, seen | {"days_since_last_session": 0}),
        Expect("edge_before", D + 7 * DAY, unseen | {"avg_rating_7d": 2.0, "days_since_last_session": 7}),
    ]


@hard_case
def case_inner_edges_of_windows(raw: RawData) -> list[Expect]:
    """Logins and sessions at exactly D - 7, - 14, - 30 days count in that window; one microsecond earlier
    do not.
    """
    for name, offset in (("window_in", timedelta(0)), ("window_out", -US)):
        raw.customer(name)
        for w in (7, 14, 30):
            moment = D - w * DAY + offset
            raw.event(f"{name}_l{w}", name, moment)
            raw.session(f"{name}_s{w}", name, moment)
    return [
        Expect(
            "window_in",
            D,
            {
                "login_count_7d": 1,
                "login_count_14d": 2,
                "login_count_30d": 3,
                "session_frequency_7d": 1.0,
                "session_frequency_14d": 1.0,
                "session_frequency_30d": 21.0 / 30,
                "days_since_last_login": 7,
                "active_days_30d": 3,
                "engagement_trend": 0.0,
            },
        ),
        Expect(
            "window_out",
            D,
            {
                "login_count_7d": 0,
                "login_count_14d": 1,
                "login_count_30d": 2,
                "session_count_7d": 0,
                "session_count_14d": 1,
                "session_count_30d": 2,
                "days_since_last_login": 7,
                "engagement_trend": -0.5,
                "session_velocity_change": -1.0,
            },
        ),
    ]


@hard_case
def case_late_facts(raw: RawData) -> list[Expect]:
    """Facts that arrive an hour, three days and three months after the nightly load change later snapshots
    only.
    """
    loads = {
        "hour": (D - 12 * HOUR, D + 7 * HOUR),
        "days": (D - 12 * HOUR, D + 3 * DAY),
        "months": (D + 10 * DAY, D + 90 * DAY),
    }
    for name, (happened, loaded_at) in loads.items():
        customer = f"late_{name}"
        raw.customer(customer)
        raw.session(f"{customer}_s", customer, happened, rating=5, rated_at=happened, loaded_at=loaded_at)
        raw.event(f"{customer}_l", customer, happened, loaded_at=loaded_at)
        raw.call(f"{customer}_c", customer, happened, loaded_at=loaded_at)
        raw.payment(f"{customer}_p", customer, happened, "5.00", loaded_at=loaded_at)
    unseen = {
        "total_sessions_lifetime": 0,
        "login_count_30d": 0,
        "ib_call_count_30d": 0,
        "total_spend_lifetime": 0.0,
    }
    seen = {
        "total_sessions_lifetime": 1,
        "login_count_30d": 1,
        "ib_call_count_30d": 1,
        "total_spend_lifetime": 5.0,
    }
    return [
        Expect("late_hour", D, unseen),
        Expect("late_hour", D + 7 * DAY, seen | {"login_count_7d": 0}),
        Expect("late_days", D, unseen),
        Expect("late_days", D + 7 * DAY, seen),
        Expect("late_months", D + 14 * DAY, unseen),
        Expect("late_months", D + 84 * DAY, None),  # the signup is old by now, and nothing else was heard of
        Expect(
            "late_months", AS_OF, {"total_sessions_lifetime": 1, "session_count_30d": 0, "avg_rating_7d": 5.0}
        ),
    ]


@hard_case
def case_grace_edge(raw: RawData) -> list[Expect]:
    """loaded_at less the grace exactly at D: not visible; one microsecond earlier: visible."""
    for name, loaded_at in (("grace_at", D + GRACE), ("grace_before", D + GRACE - US)):
        raw.customer(name)
        raw.session(f"{name}_s", name, D - DAY, loaded_at=loaded_at)
        raw.event(f"{name}_l", name, D - DAY, loaded_at=loaded_at)
        raw.customer(name, subscription_tier="premium", updated_at=D - DAY, loaded_at=loaded_at)
    return [
        Expect("grace_at", D, {"session_count_7d": 0, "login_count_7d": 0, "subscription_tier": 1}),
        Expect("grace_before", D, {"session_count_7d": 1, "login_count_7d": 1, "subscription_tier": 2}),
        Expect(
            "grace_at", D + 7 * DAY, {"session_count_14d": 1, "login_count_14d": 1, "subscription_tier": 2}
        ),
    ]


@hard_case
def case_completed_then_no_show(raw: RawData) -> list[Expect]:
    """A session delivered as completed and corrected to a no-show ten days later is each in its time."""
    raw.customer("corrected")
    first = raw.session("corrected_s", "corrected", D - DAY)
    raw.again("raw_sessions", first, D + 9 * DAY + 2 * HOUR, status="no_show", duration_minutes=None)
    return [
        Expect("corrected", D, {"session_count_7d": 1, "no_show_rate_7d": 0.0}),
        Expect("corrected", D + 7 * DAY, {"session_count_14d": 1, "no_show_rate_14d": 0.0}),
        Expect(
            "corrected",
            D + 14 * DAY,
            {"session_count_30d": 0, "no_show_rate_30d": 1.0, "days_since_last_session": 999},
        ),
    ]


@hard_case
def case_status_back_and_forth(raw: RawData) -> list[Expect]:
    """Completed, no-show, completed again: known since the first 'completed'. Cancelled, then scheduled
    again: open.
    """
    raw.customer("flip")
    first = raw.session("flip_s1", "flip", D - 4 * DAY, tutor_id="flip_t1")
    second = raw.again("raw_sessions", first, D + HOUR, status="no_show", duration_minutes=None)
    raw.again("raw_sessions", second, D + 8 * DAY, status="completed", duration_minutes=45)
    # between the two deliveries as completed, another session with another tutor became known
    raw.session("flip_s2", "flip", D - 3 * DAY, tutor_id="flip_t2", rating=5, rated_at=D - 3 * DAY)
    raw.customer("reopened")
    times = {
        "booked_at": D - 5 * DAY,
        "scheduled_at": D + 20 * DAY,
        "subject": "spanish",
        "tutor_id": "reopened_t",
    }
    opened = raw.session("reopened_s", "reopened", None, **times)
    closed = raw.again(
        "raw_sessions", opened, D - 2 * DAY, status="cancelled_by_customer", resolved_at=D - 3 * DAY
    )
    raw.again("raw_sessions", closed, D + 2 * DAY, status="scheduled", resolved_at=None)
    return [
        Expect("flip", D, {"session_count_7d": 1, "first_session_was_success": 1, "no_show_rate_7d": 0.5}),
        Expect(
            "flip",
            D + 14 * DAY,
            {"total_sessions_lifetime": 2, "first_session_was_success": 0, "avg_session_duration_30d": 52.5},
        ),
        Expect("reopened", D, {"cancellation_rate_7d": 1.0, "primary_subject": -1}),
        Expect("reopened", D + 7 * DAY, {"cancellation_rate_14d": 0.0, "primary_subject": 8}),
    ]


@hard_case
def case_ratings_later(raw: RawData) -> list[Expect]:
    """A rating given after the snapshot, and one changed from 5 to 2 long after it was given."""
    raw.customer("rated_later")
    first = raw.session("rated_later_s", "rated_later", D - DAY)
    rated = raw.again("raw_sessions", first, D + 3 * DAY, rating=5, rated_at=D + 2 * DAY)
    raw.again("raw_sessions", rated, D + 12 * DAY, rating=2)
    return [
        Expect(
            "rated_later",
            D,
            {"avg_rating_7d": 4.0, "first_session_was_success": 0, "primary_tutor_rating": 4.0},
        ),
        Expect("rated_later", D + 7 * DAY, {"avg_rating_7d": 5.0, "first_session_was_success": 1}),
        Expect(
            "rated_later",
            D + 14 * DAY,
            {
                "avg_rating_7d": 2.0,
                "avg_rating_14d": 2.0,
                "first_session_was_success": 0,
                "rating_trend": 0.0,
            },
        ),
    ]


@hard_case
def case_known_times_order_sessions(raw: RawData) -> list[Expect]:
    """First and last go by when the warehouse came to know, not by when sessions took place; ties go by id
    as text.
    """
    raw.customer("order_late")
    # took place first, became known last
    raw.session(
        "order_late_a",
        "order_late",
        D - 10 * DAY,
        tutor_id="order_t1",
        rating=5,
        rated_at=D - 10 * DAY,
        subject="history",
        loaded_at=D - DAY,
    )
    raw.session(
        "order_late_b",
        "order_late",
        D - 5 * DAY,
        tutor_id="order_t2",
        rating=1,
        rated_at=D - 5 * DAY,
        subject="french",
    )
    raw.customer("order_tie")
    for number, tutor, subject in ((10, "order_t3", "spanish"), (9, "order_t4", "english")):
        raw.session(
            f"order_tie_{number}",
            "order_tie",
            D - 2 * DAY,
            tutor_id=tutor,
            subject=subject,
            rating=5 if number == 10 else 1,
            rated_at=D - 2 * DAY,
        )
    raw.customer("order_load_tie")
    # loaded together, late: known_at is equal, though the events are not
    for number, moment in (("b", D - 9 * DAY), ("a", D - 4 * DAY)):
        raw.session(
            f"order_load_tie_{number}",
            "order_load_tie",
            moment,
            tutor_id=f"order_t5{number}",
            subject="history" if number == "a" else "french",
            loaded_at=D - DAY,
        )
    return [
        Expect(
            "order_late",
            D,
            {
                "first_session_was_success": 0,
                "primary_subject": 11,  # a tie: history became known last
                "primary_tutor_rating": 5.0,
                "tutor_switch_count_30d": 1,
                "days_since_last_session": 5,
            },
        ),
        Expect(
            "order_tie",
            D,
            {
                "first_session_was_success": 1,  # 'order_tie_10' < 'order_tie_9'
                "primary_subject": 10,
                "primary_tutor_rating": 1.0,
                "tutor_consistency_score": 0.5,
            },
        ),
        Expect("order_load_tie", D, {"primary_subject": 9, "tutor_switch_count_30d": 1}),
    ]


@hard_case
def case_profile_changes(raw: RawData) -> list[Expect]:
    """Tier changed yesterday, changed early but told late, told before it takes effect, corrected, and set
    to null.
    """
    raw.customer("tier_yesterday", subscription_tier="budget")
    raw.customer("tier_yesterday", subscription_tier="premium", updated_at=D - DAY)
    raw.customer("tier_late", subscription_tier="budget")
    raw.customer("tier_late", subscription_tier="standard", updated_at=D - 20 * DAY)
    raw.customer("tier_late", subscription_tier="premium", updated_at=D - 30 * DAY, loaded_at=D + 2 * DAY)
    raw.customer("tier_late", subscription_tier="premium", updated_at=D - 10 * DAY, loaded_at=D + 9 * DAY)
    raw.customer("tier_ahead", subscription_tier="budget")
    raw.customer("tier_ahead", subscription_tier="premium", updated_at=D + 12 * HOUR, loaded_at=D - 2 * HOUR)
    raw.customer("tier_again", subscription_tier="budget", grade_level="college")
    raw.customer(
        "tier_again", subscription_tier="standard", loaded_at=D - 3 * DAY
    )  # same updated_at, loaded later
    raw.customer("tier_null", subscription_tier=None, acquisition_channel=None, grade_level=None)
    raw.customer("tier_to_null")
    raw.customer("tier_to_null", subscription_tier=None, updated_at=D - 2 * DAY)
    nothing = {"subscription_tier": -1, "acquisition_channel": -1, "grade_level": -1}
    return [
        Expect("tier_yesterday", D - 7 * DAY, {"subscription_tier": 0}),
        Expect("tier_yesterday", D, {"subscription_tier": 2}),
        Expect("tier_late", D, {"subscription_tier": 1}),
        Expect("tier_late", D + 7 * DAY, {"subscription_tier": 1}),  # told since, but of an earlier time
        Expect("tier_late", D + 14 * DAY, {"subscription_tier": 2}),
        Expect("tier_ahead", D, {"subscription_tier": 0}),
        Expect("tier_ahead", D + 7 * DAY, {"subscription_tier": 2}),
        Expect("tier_again", D - 7 * DAY, {"subscription_tier": 0, "grade_level": 3}),
        Expect("tier_again", D, {"subscription_tier": 1, "grade_level": 2}),
        Expect("tier_null", D, nothing),
        Expect(
            "tier_to_null", D - 7 * DAY, {"subscription_tier": 1, "acquisition_channel": 3, "grade_level": 2}
        ),
        Expect("tier_to_null", D, {"subscription_tier": -1, "acquisition_channel": 3, "grade_level": 2}),
    ]


@hard_case
def case_nothing_but_signup(raw: RawData) -> list[Expect]:
    """A customer of whom nothing is known but the signup: every default of features.md; in scope for 90
    days.
    """
    raw.customer("silent", D - 90 * DAY)
    raw.customer("silent_longer", D - 90 * DAY - US)
    defaults: dict[str, int | float] = {}
    for w in (7, 14, 30):
        for name in (
            "session_count",
            "ib_call_count",
            "negative_calls",
            "login_count",
            "message_count",
            "active_days",
        ):
            defaults[f"{name}_{w}d"] = 0
        for name in ("session_frequency", "cancellation_rate", "no_show_rate", "avg_session_duration"):
            defaults[f"{name}_{w}d"] = 0.0
        defaults |= {f"avg_rating_{w}d": 4.0, f"payment_success_rate_{w}d": 1.0, f"payment_amount_{w}d": 0.0}
    for name in ("session", "login", "payment", "ib_call"):
        defaults[f"days_since_last_{name}"] = 999
    defaults |= {
        "customer_tenure_days": 90,
        "total_sessions_lifetime": 0,
        "total_spend_lifetime": 0.0,
        "subscription_tier": 1,
        "acquisition_channel": 3,
        "grade_level": 2,
        "primary_subject": -1,
        "tutor_consistency_score": 0.0,
        "primary_tutor_rating": 4.0,
        "tutor_switch_count_30d": 0,
        "avg_tutor_response_time_hours": 4.0,
        "first_session_was_success": 0,
        "session_velocity_change": 0.0,
        "rating_trend": 0.0,
        "engagement_trend": 0.0,
        "spend_acceleration": 0.0,
    }
    return [
        Expect("silent", D, defaults),
        Expect("silent", D + 7 * DAY, None),
        Expect("silent_longer", D, None),
    ]


@hard_case
def case_signs_of_life(raw: RawData) -> list[Expect]:
    """What keeps a customer in scope for 90 days and what does not, at the edge to the microsecond."""
    old, edge = datetime(2025, 5, 10), D - 90 * DAY
    expected = []
    for name, moment, stays in (("in", edge, True), ("out", edge - US, False)):
        for kind in ("session", "login", "message", "succeeded", "failed", "inbound"):
            customer = f"life_{name}_{kind}"
            raw.customer(customer, old)
            if kind == "session":
                raw.session(f"{customer}_x", customer, moment)
            elif kind == "login":
                raw.event(f"{customer}_x", customer, moment)
            elif kind == "message":
                raw.event(f"{customer}_x", customer, moment, event_type="message_sent")
            elif kind == "inbound":
                raw.call(f"{customer}_x", customer, moment)
            else:
                raw.payment(f"{customer}_x", customer, moment, "1.00", status=kind)
            expected.append(Expect(customer, D, {"subscription_tier": 1} if stays else None))
    for kind in ("refunded", "pending", "outbound", "no_show", "booking", "profile"):
        customer = f"life_not_{kind}"
        raw.customer(customer, old)
        if kind in ("refunded", "pending"):
            raw.payment(f"{customer}_x", customer, D - DAY, "1.00", status=kind)
        elif kind == "outbound":
            raw.call(f"{customer}_x", customer, D - DAY, direction="outbound")
        elif kind == "no_show":
            raw.session(f"{customer}_x", customer, D - DAY, status="no_show")
        elif kind == "booking":
            raw.session(f"{customer}_x", customer, None, booked_at=D - DAY, scheduled_at=D + DAY)
        else:
            raw.customer(customer, old, updated_at=D - DAY, subscription_tier="premium")
        expected.append(Expect(customer, D, None))
    return expected


@hard_case
def case_lapse_of_thirty_days(raw: RawData) -> list[Expect]:
    """Sessions exactly 30 days apart are no lapse; 30 days and a microsecond are (labels; segments at the
    edge).
    """
    for name, gap in (("lapse_none", 30 * DAY), ("lapse", 30 * DAY + US)):
        raw.customer(name)
        for number in range(4):
            raw.session(f"{name}_{number}", name, D + number * gap, rating=5, rated_at=D + number * gap)
    raw.customer("lapse_start", D)  # churn counts from signup where no session took place before
    raw.session("lapse_start_s", "lapse_start", D + 30 * DAY)
    raw.customer("lapse_started", D)
    raw.session("lapse_started_s", "lapse_started", D + 30 * DAY + US)
    raw.customer("clock_29", D - 30 * DAY + US)
    raw.customer("clock_30", D - 30 * DAY)
    raw.customer("clock_session_30")
    raw.session("clock_session_30_s", "clock_session_30", D - 30 * DAY)
    raw.customer("clock_session_29")
    raw.session("clock_session_29_s", "clock_session_29", D - 30 * DAY + US)
    return [
        Expect("lapse", D + 35 * DAY, {"days_since_last_session": 4}),
        Expect("clock_29", D, {"customer_tenure_days": 29, "days_since_last_session": 999}),
        Expect("clock_30", D, {"customer_tenure_days": 30}),
        Expect("clock_session_30", D, {"days_since_last_session": 30}),
        Expect("clock_session_29", D, {"days_since_last_session": 29}),
    ]


@hard_case
def case_first_session_label(raw: RawData) -> list[Expect]:
    """The first session at the edges of [D, D + 14 days), rated exactly 7 days later, later than that, or
    never.
    """
    week = 7 * DAY
    for name, moment, rated_after, rating in (
        ("first_good", D, week, 4),
        ("first_bad", D, week, 3),
        ("first_late_rating", D, week + US, 5),
        ("first_before", D - US, DAY, 5),
        ("first_last", D + 14 * DAY - US, DAY, 5),
        ("first_after", D + 14 * DAY, DAY, 5),
        ("first_unrated", D + DAY, None, None),
    ):
        raw.customer(name, D - 10 * DAY)
        rated_at = None if rated_after is None else moment + rated_after
        raw.session(f"{name}_s", name, moment, rating=rating, rated_at=rated_at)
    # rated_at without a rating is no rating
    raw.customer("first_half_rated", D - 10 * DAY)
    raw.session("first_half_rated_s", "first_half_rated", D + DAY, rating=None, rated_at=D + DAY)
    # two sessions at one moment: the label's first is the one with the lesser id
    raw.customer("first_tie", D - 10 * DAY)
    raw.session("first_tie_9", "first_tie", D + DAY, rating=5, rated_at=D + DAY)
    raw.session("first_tie_10", "first_tie", D + DAY, rating=1, rated_at=D + DAY)
    # a no-show comes first, and a first session that was corrected away
    raw.customer("first_corrected", D - 10 * DAY)
    raw.session("first_corrected_a", "first_corrected", D + DAY, status="no_show")
    wrong = raw.session("first_corrected_b", "first_corrected", D + 2 * DAY, rating=1, rated_at=D + 2 * DAY)
    raw.again("raw_sessions", wrong, D + 30 * DAY, status="cancelled_by_tutor", rating=None, rated_at=None)
    raw.session("first_corrected_c", "first_corrected", D + 3 * DAY, rating=5, rated_at=D + 4 * DAY)
    return [Expect("first_good", D, {"total_sessions_lifetime": 0})]


@hard_case
def case_refund_larger_than_spend(raw: RawData) -> list[Expect]:
    """Refunds beyond the spend make amounts negative; cents add up exactly; refunds are no attempts."""
    raw.customer("refund")
    raw.payment("refund_1", "refund", D - 2 * DAY, "0.10")
    raw.payment("refund_2", "refund", D - 2 * DAY, "0.20")
    raw.payment("refund_3", "refund", D - DAY, "5.00", status="refunded")
    raw.payment("refund_4", "refund", D - 10 * DAY, "7.77", status="failed")
    raw.customer("cents")
    raw.payment("cents_1", "cents", D - 2 * DAY, "0.10")
    raw.payment("cents_2", "cents", D - 2 * DAY, "0.20")
    raw.payment("cents_3", "cents", D - 2 * DAY, "9999999999.99")
    raw.payment("cents_4", "cents", D - 2 * DAY, "9999999999.99", status="refunded")
    raw.payment("cents_5", "cents", D - 2 * DAY, "3.00", status="failed")
    raw.payment("cents_6", "cents", D - 2 * DAY, None)
    return [
        Expect(
            "refund",
            D,
            {
                "payment_amount_7d": -4.7,
                "payment_success_rate_7d": 1.0,
                "payment_success_rate_14d": 2 / 3,
                "total_spend_lifetime": -4.7,
                "days_since_last_payment": 2,
                "spend_acceleration": -4.7 / 7.0 - -4.7 / 30.0,
            },
        ),
        Expect("cents", D, {"payment_amount_7d": 0.3, "payment_success_rate_7d": 0.8}),
    ]


@hard_case
def case_payment_statuses(raw: RawData) -> list[Expect]:
    """Pending payments count for nothing; one that succeeds later is known later, though attempted before."""
    raw.customer("pending")
    first = raw.payment("pending_1", "pending", D - DAY, "20.00", status="pending")
    second = raw.again("raw_payments", first, D + DAY, status="succeeded")
    raw.again("raw_payments", second, D + 8 * DAY, status="refunded", amount=Decimal("15.00"))
    raw.payment("pending_2", "pending", D - 9 * DAY, "1.00", status="failed")
    return [
        Expect(
            "pending",
            D,
            {"payment_amount_7d": 0.0, "payment_success_rate_7d": 0.0, "days_since_last_payment": 999},
        ),
        Expect("pending", D + 7 * DAY, {"payment_amount_14d": 20.0, "payment_success_rate_30d": 0.5}),
        Expect("pending", D + 14 * DAY, {"payment_amount_30d": -15.0, "payment_success_rate_30d": 0.0}),
    ]


@hard_case
def case_repeated_deliveries(raw: RawData) -> list[Expect]:
    """One delivery repeated; repeated with another content; versions in a file order unlike the order of
    loading.
    """
    raw.customer("dup")
    raw.customer("dup")
    session = raw.session("dup_s", "dup", D - 3 * DAY)
    raw.add("raw_sessions", session)
    event = raw.event("dup_l", "dup", D - 3 * DAY)
    raw.add("raw_app_events", event)
    raw.customer("conflict", subscription_tier="budget")
    raw.customer("conflict", subscription_tier="premium")
    raw.customer("conflict", subscription_tier="premium", grade_level="college")
    # the greater updated_at wins, whatever else is greater
    times = {"loaded_at": D - DAY, "confirmed_at": None}
    raw.session("conflict_s", "conflict", D - 3 * DAY, status="no_show", updated_at=D - 2 * DAY, **times)
    raw.session("conflict_s", "conflict", D - 3 * DAY, updated_at=D - 2 * DAY + US, **times)
    # then column by column: subject 'spanish' is greater than 'english', before the status is looked at
    raw.session("conflict_t", "conflict", D - 3 * DAY, subject="spanish", **times)
    raw.session("conflict_t", "conflict", D - 3 * DAY, subject="english", status="scheduled", **times)
    # then null is least: rated beats unrated
    raw.session("conflict_u", "conflict", D - 3 * DAY, subject="spanish", updated_at=D - 2 * DAY, **times)
    raw.session(
        "conflict_u",
        "conflict",
        D - 3 * DAY,
        subject="spanish",
        rating=1,
        rated_at=D - 3 * DAY,
        updated_at=D - 2 * DAY,
        **times,
    )
    raw.call("conflict_c", "conflict", D - 3 * DAY, sentiment_score=-0.9)
    raw.call("conflict_c", "conflict", D - 3 * DAY, sentiment_score=-0.1)
    raw.customer("reorder")
    first = raw.session("reorder_s", "reorder", None, booked_at=D - 9 * DAY, scheduled_at=D - 5 * DAY)
    done = {**first, "status": "completed", "resolved_at": D - 5 * DAY, "duration_minutes": 30}
    raw.tables["raw_sessions"].remove(first)
    raw.again("raw_sessions", done, D - DAY, status="no_show", duration_minutes=None)
    raw.again("raw_sessions", done, D - 4 * DAY)
    raw.add("raw_sessions", first)
    return [
        Expect("dup", D, {"session_count_7d": 1, "login_count_7d": 1}),
        Expect(
            "conflict",
            D,
            {
                "subscription_tier": 2,  # 'premium' > 'budget'
                "grade_level": 2,  # and then 'high_school' > 'college'
                "session_count_7d": 3,
                "avg_rating_7d": 1.0,
                "primary_subject": 8,
                "negative_calls_7d": 0,
                "no_show_rate_7d": 0.0,
            },
        ),
        Expect("reorder", D, {"session_count_7d": 0, "no_show_rate_7d": 1.0}),
    ]


@hard_case
def case_tutors(raw: RawData) -> list[Expect]:
    """Ties between tutors go to the latest session; only the last 20 sessions count; switches look past the
    window.
    """
    raw.customer("tutor_tie")
    for number, tutor in enumerate("ABBA"):
        raw.session(
            f"tutor_tie_{number}",
            "tutor_tie",
            D - (10 - number) * DAY,
            tutor_id=f"tutor_tie_{tutor}",
            rating=5 if tutor == "A" else 2,
            rated_at=D - (10 - number) * DAY,
        )
    raw.customer("tutor_many", SIGNUP)
    # 22 sessions, A for the first 12, then B for 10: of the last 20, ten each, and B had the latest
    for number in range(22):
        raw.session(
            f"tutor_many_{number:02}",
            "tutor_many",
            D - (50 - 2 * number) * DAY,
            tutor_id="tutor_many_A" if number < 12 else "tutor_many_B",
            subject="algebra_2" if number < 12 else "geometry",
            rating=3 if number == 0 else None,
            rated_at=D - 50 * DAY if number == 0 else None,
        )
    raw.customer("tutor_switch")
    for days, tutor in ((31, "A"), (30, "B"), (20, "B"), (10, "A"), (1, "B")):
        raw.session(f"tutor_switch_{days}", "tutor_switch", D - days * DAY, tutor_id=f"tutor_switch_{tutor}")
    # others' ratings of the same tutor count, of any session with a rating, also of one that was not
    # completed
    raw.customer("tutor_mine")
    raw.session("tutor_mine_1", "tutor_mine", D - 2 * DAY, tutor_id="tutor_shared")
    raw.customer("tutor_other")
    raw.session(
        "tutor_other_1", "tutor_other", D - 3 * DAY, tutor_id="tutor_shared", rating=2, rated_at=D - 3 * DAY
    )
    raw.session(
        "tutor_other_2",
        "tutor_other",
        D - 3 * DAY,
        tutor_id="tutor_shared",
        rating=1,
        rated_at=D - 2 * DAY,
        status="no_show",
    )
    raw.session("tutor_other_3", "tutor_other", D - 3 * DAY, tutor_id="tutor_shared", rating=5, rated_at=D)
    # a session that passes to another tutor takes its rating along
    moved = raw.session(
        "tutor_other_4", "tutor_other", D - 6 * DAY, tutor_id="tutor_shared", rating=5, rated_at=D - 5 * DAY
    )
    raw.again("raw_sessions", moved, D - 2 * DAY, tutor_id="tutor_elsewhere")
    return [
        Expect(
            "tutor_tie",
            D,
            {"tutor_consistency_score": 0.5, "primary_tutor_rating": 5.0, "tutor_switch_count_30d": 2},
        ),
        Expect(
            "tutor_many",
            D,
            {
                "total_sessions_lifetime": 22,
                "tutor_consistency_score": 0.5,
                "primary_tutor_rating": 4.0,
                "primary_subject": 1,
                "avg_rating_7d": 3.0,
                "first_session_was_success": 0,
                "tutor_switch_count_30d": 1,
            },
        ),
        Expect("tutor_switch", D, {"tutor_switch_count_30d": 3, "tutor_consistency_score": 0.6}),
        Expect("tutor_mine", D, {"primary_tutor_rating": 1.5}),
        Expect("tutor_mine", D + 7 * DAY, {"primary_tutor_rating": 8 / 3}),
    ]


@hard_case
def case_sessions_that_move(raw: RawData) -> list[Expect]:
    """A session corrected to another tutor, subject, time, or customer counts as it was known at each
    snapshot.
    """
    raw.customer("moved")
    first = raw.session(
        "moved_s", "moved", D - DAY, tutor_id="moved_A", subject="psychology", rating=1, rated_at=D - DAY
    )
    raw.again(
        "raw_sessions",
        first,
        D + DAY,
        tutor_id="moved_B",
        subject="economics",
        resolved_at=D - 20 * DAY,
        booked_at=D - 25 * DAY,
    )
    raw.customer("giver")
    raw.customer("taker")
    given = raw.session("given_s", "giver", D - DAY, rating=5, rated_at=D - DAY, tutor_id="given_t")
    raw.again("raw_sessions", given, D + DAY, customer_id="taker")
    return [
        Expect("moved", D, {"session_count_7d": 1, "primary_subject": 17, "primary_tutor_rating": 1.0}),
        Expect("moved", D + 7 * DAY, {"session_count_14d": 0, "session_count_30d": 1, "primary_subject": 16}),
        Expect("giver", D, {"total_sessions_lifetime": 1, "first_session_was_success": 1}),
        Expect("taker", D, {"total_sessions_lifetime": 0}),
        Expect("giver", D + 7 * DAY, {"total_sessions_lifetime": 0, "avg_rating_30d": 4.0}),
        Expect("taker", D + 7 * DAY, {"total_sessions_lifetime": 1, "avg_rating_30d": 5.0}),
    ]


@hard_case
def case_next_session(raw: RawData) -> list[Expect]:
    """What is booked ahead stands in for the subject and tutor of who has had no session: the nearest open
    one.
    """
    open_ = {"booked_at": D - 5 * DAY}
    raw.customer("next_far")
    raw.session("next_far_1", "next_far", None, scheduled_at=D + 9 * DAY, subject="history", **open_)
    raw.session("next_far_2", "next_far", None, scheduled_at=D + 2 * DAY, subject="french", **open_)
    raw.session(
        "next_far_3", "next_far", None, scheduled_at=D - US, subject="english", **open_
    )  # in the past
    raw.customer("next_now")
    raw.session("next_now_b", "next_now", None, scheduled_at=D, subject="history", **open_)
    raw.session("next_now_a", "next_now", None, scheduled_at=D, subject="french", **open_)
    raw.customer("next_moved")
    first = raw.session(
        "next_moved_s", "next_moved", None, scheduled_at=D + 2 * DAY, subject="history", **open_
    )
    raw.again("raw_sessions", first, D - DAY, scheduled_at=D + 20 * DAY)
    raw.session("next_moved_t", "next_moved", None, scheduled_at=D + 9 * DAY, subject="french", **open_)
    raw.customer("next_cancelled")
    first = raw.session(
        "next_cancelled_s", "next_cancelled", None, scheduled_at=D + 2 * DAY, subject="history", **open_
    )
    raw.again("raw_sessions", first, D - DAY, status="cancelled_by_customer", resolved_at=D - 2 * DAY)
    raw.customer("next_outcome_ahead")  # an outcome at D itself is not visible at D
    raw.session(
        "next_outcome_ahead_s",
        "next_outcome_ahead",
        D,
        subject="spanish",
        scheduled_at=D,
        tutor_id="next_t",
        loaded_at=D - HOUR,
    )
    raw.customer("next_booked_at_d")
    raw.session(
        "next_booked_at_d_s", "next_booked_at_d", None, scheduled_at=D + DAY, booked_at=D, loaded_at=D + HOUR
    )
    raw.customer("next_rater")
    raw.session("next_rater_s", "next_rater", D - 3 * DAY, tutor_id="next_t", rating=2, rated_at=D - 3 * DAY)
    return [
        Expect("next_far", D, {"primary_subject": 9, "days_since_last_session": 999}),
        Expect("next_far", D + 7 * DAY, {"primary_subject": 11}),
        Expect("next_now", D, {"primary_subject": 9}),
        Expect("next_now", D + 7 * DAY, {"primary_subject": -1}),
        Expect("next_moved", D, {"primary_subject": 9}),
        Expect("next_moved", D + 14 * DAY, {"primary_subject": 11}),
        Expect("next_cancelled", D, {"primary_subject": -1, "cancellation_rate_7d": 1.0}),
        Expect(
            "next_outcome_ahead",
            D,
            {"primary_subject": 8, "total_sessions_lifetime": 0, "primary_tutor_rating": 2.0},
        ),
        Expect("next_booked_at_d", D, {"primary_subject": -1}),
    ]


@hard_case
def case_late_customer(raw: RawData) -> list[Expect]:
    """Facts of a customer whose own row comes later are unknown until then, also to the rating of the
    tutor.
    """
    raw.customer("known_late", D - 20 * DAY, loaded_at=D + 2 * DAY)
    raw.session("known_late_s", "known_late", D - DAY, tutor_id="known_late_t", rating=1, rated_at=D - DAY)
    raw.event("known_late_l", "known_late", D - DAY)
    raw.customer("known_early")
    raw.session(
        "known_early_s", "known_early", D - 2 * DAY, tutor_id="known_late_t", rating=5, rated_at=D - 2 * DAY
    )
    # a session that passes to a customer who is not known yet stays with the first until then
    raw.customer("known_giver")
    raw.customer("known_taker", D - 20 * DAY, loaded_at=D + 8 * DAY)
    given = raw.session("known_given_s", "known_giver", D - 3 * DAY)
    raw.again("raw_sessions", given, D - DAY, customer_id="known_taker")
    # and one that came back meanwhile has never left
    given = raw.session("known_back_s", "known_giver", D - 3 * DAY)
    raw.again("raw_sessions", given, D - 2 * DAY + 12 * HOUR, customer_id="known_taker")
    raw.again("raw_sessions", given, D - DAY, duration_minutes=30)
    return [
        Expect("known_late", D, None),
        Expect("known_late", D + 7 * DAY, {"total_sessions_lifetime": 1, "login_count_14d": 1}),
        Expect("known_early", D, {"primary_tutor_rating": 5.0}),
        Expect("known_early", D + 7 * DAY, {"primary_tutor_rating": 3.0}),
        Expect("known_giver", D, {"total_sessions_lifetime": 2, "avg_session_duration_7d": 45.0}),
        Expect("known_giver", D + 7 * DAY, {"total_sessions_lifetime": 2}),
        Expect("known_giver", D + 14 * DAY, {"total_sessions_lifetime": 1}),
        Expect("known_taker", D + 14 * DAY, {"total_sessions_lifetime": 1}),
    ]


@hard_case
def case_corrected_signup(raw: RawData) -> list[Expect]:
    """A signup corrected by hours: tenure as it was known; a signup not before D is not visible."""
    raw.customer("signup_moved", D - 10 * DAY)
    raw.customer("signup_moved", D - 10 * DAY + 6 * HOUR, updated_at=D - 10 * DAY, loaded_at=D + DAY)
    # corrected two days back, and then again to what it was
    raw.customer("signup_twice", D - 10 * DAY)
    raw.customer("signup_twice", D - 12 * DAY, updated_at=D - 10 * DAY, loaded_at=D + DAY)
    raw.customer("signup_twice", D - 10 * DAY, loaded_at=D + 9 * DAY)
    raw.customer("signup_at_d", D, loaded_at=D - HOUR)
    return [
        Expect("signup_moved", D, {"customer_tenure_days": 10}),
        Expect("signup_moved", D + 7 * DAY, {"customer_tenure_days": 16}),
        Expect("signup_twice", D, {"customer_tenure_days": 10}),
        Expect("signup_twice", D + 7 * DAY, {"customer_tenure_days": 19}),
        Expect("signup_twice", D + 14 * DAY, {"customer_tenure_days": 24}),
        Expect("signup_at_d", D, None),
        Expect("signup_at_d", D + 7 * DAY, {"customer_tenure_days": 7}),
    ]


@hard_case
def case_response_times(raw: RawData) -> list[Expect]:
    """Waiting times to the microsecond, over confirmations in 30 days of sessions of any status, else of
    all time.
    """
    raw.customer("response")
    for number, (days, wait) in enumerate(
        ((40, 10 * HOUR), (20, HOUR + US), (10, 2 * HOUR + 2 * US), (3, 70 * HOUR))
    ):
        booked = D - days * DAY
        raw.session(
            f"response_{number}",
            "response",
            None,
            booked_at=booked,
            confirmed_at=booked + wait,
            scheduled_at=D - DAY,
            loaded_at=booked + wait + HOUR,
        )
    raw.customer("response_old")
    raw.session(
        "response_old_s",
        "response_old",
        None,
        booked_at=D - 40 * DAY,
        scheduled_at=D + DAY,
        confirmed_at=D - 40 * DAY + 90 * timedelta(minutes=1),
    )
    return [
        Expect("response", D, {"avg_tutor_response_time_hours": (262_800_000_003 / 1e6) / 3 / 3600.0}),
        Expect("response_old", D, {"avg_tutor_response_time_hours": 1.5}),
    ]


@hard_case
def case_calls(raw: RawData) -> list[Expect]:
    """Sentiment exactly at the threshold is not negative, nor is a missing one; outbound calls count for
    nothing.
    """
    raw.customer("calls")
    for number, score in enumerate((-0.3, -0.30000000000000004, None, -1.0, 1.0)):
        raw.call(f"calls_{number}", "calls", D - 8 * DAY, sentiment_score=score)
    raw.call("calls_out", "calls", D - DAY, direction="outbound", sentiment_score=-1.0)
    wrong = raw.call("calls_wrong", "calls", D - 9 * DAY)
    raw.again("raw_calls", wrong, D + DAY, direction="outbound")
    return [
        Expect(
            "calls",
            D,
            {
                "ib_call_count_7d": 0,
                "ib_call_count_14d": 6,
                "negative_calls_14d": 2,
                "days_since_last_ib_call": 8,
            },
        ),
        Expect("calls", D + 7 * DAY, {"ib_call_count_30d": 5}),
    ]


@hard_case
def case_active_days(raw: RawData) -> list[Expect]:
    """Days are UTC days of event_at: either side of midnight are two; many things on one day are one."""
    raw.customer("active")
    for number, moment in enumerate((D - 2 * DAY, D - 2 * DAY - US, D - 2 * DAY + 23 * HOUR)):
        raw.event(f"active_{number}", "active", moment)
    raw.event("active_m", "active", D - 2 * DAY + HOUR, event_type="message_sent")
    raw.session("active_s", "active", D - 4 * DAY)
    raw.session("active_n", "active", D - 5 * DAY, status="no_show")
    wrong = raw.event("active_w", "active", D - 6 * DAY)
    raw.again("raw_app_events", wrong, D - DAY, event_type="message_sent")
    return [Expect("active", D, {"active_days_7d": 4, "login_count_7d": 3, "message_count_7d": 2})]


@hard_case
def case_durations(raw: RawData) -> list[Expect]:
    """A missing duration is not observed; a window without any takes the mean over all sessions."""
    raw.customer("duration")
    raw.session("duration_1", "duration", D - 20 * DAY, duration_minutes=50)
    raw.session("duration_2", "duration", D - 10 * DAY, duration_minutes=0)
    raw.session("duration_3", "duration", D - 2 * DAY, duration_minutes=None)
    return [
        Expect(
            "duration",
            D,
            {
                "session_count_7d": 1,
                "avg_session_duration_7d": 25.0,
                "avg_session_duration_14d": 0.0,
                "avg_session_duration_30d": 25.0,
            },
        )
    ]


@hard_case
def case_missing_load_times(raw: RawData) -> list[Expect]:
    """Where loaded_at is null a fact is known when it happens; its version is older than any that has one."""
    raw.customer("unloaded", loaded_at=None)
    raw.session("unloaded_a", "unloaded", D - DAY, tutor_id="unloaded_A", loaded_at=None)
    raw.session(
        "unloaded_b",
        "unloaded",
        D - DAY + HOUR,
        tutor_id="unloaded_B",
        loaded_at=None,
        rating=5,
        rated_at=D - DAY + HOUR,
    )
    raw.session("unloaded_c", "unloaded", D + 3 * DAY, loaded_at=None)  # it happens later
    opened = {"booked_at": D - 6 * DAY, "scheduled_at": D - 4 * DAY, "loaded_at": None}
    raw.session(
        "unloaded_d", "unloaded", None, updated_at=D - 6 * DAY, **opened
    )  # one delivery with the next
    raw.session("unloaded_d", "unloaded", D - 4 * DAY, updated_at=D - 4 * DAY, **opened)
    raw.event("unloaded_l", "unloaded", D - 3 * DAY, loaded_at=None)
    raw.again("raw_app_events", raw.tables["raw_app_events"][-1], D + DAY, event_type="message_sent")
    # a later version with a load does not make the earlier one, known all along, any younger
    raw.customer("half_loaded", loaded_at=None)
    raw.customer("half_loaded", subscription_tier="premium", updated_at=D + DAY)
    first = raw.session(
        "half_loaded_a", "half_loaded", D - 3 * DAY, rating=5, rated_at=D - 3 * DAY, loaded_at=None
    )
    raw.again("raw_sessions", first, D - HOUR)
    raw.session("half_loaded_b", "half_loaded", D - 2 * DAY, rating=1, rated_at=D - 2 * DAY)
    return [
        Expect("half_loaded", D, {"first_session_was_success": 1, "subscription_tier": 1}),
        Expect("half_loaded", D + 7 * DAY, {"first_session_was_success": 1, "subscription_tier": 2}),
        Expect(
            "unloaded",
            D,
            {
                "session_count_7d": 3,
                "first_session_was_success": 0,
                "tutor_switch_count_30d": 2,
                "login_count_7d": 1,
            },
        ),
        Expect(
            "unloaded", D + 7 * DAY, {"session_count_14d": 4, "login_count_14d": 0, "message_count_14d": 1}
        ),
    ]


@hard_case
def case_newest_version_broken(raw: RawData) -> list[Expect]:
    """A newer version that breaks the contract leaves the version before it in force, also for known_at."""
    raw.customer("broken")
    good = raw.session("broken_s", "broken", D - 3 * DAY, rating=4, rated_at=D - 3 * DAY)
    raw.again("raw_sessions", good, D - DAY, rating=6)
    raw.customer("broken", subscription_tier="gold", updated_at=D - DAY)
    # the version that first said 'completed' is broken: known by the second
    raw.session("broken_t", "broken", D - 4 * DAY, subject="astrology", tutor_id="broken_B")
    raw.session("broken_t", "broken", D - 4 * DAY, loaded_at=D - DAY, tutor_id="broken_B")
    return [
        Expect(
            "broken",
            D,
            {
                "avg_rating_7d": 4.0,
                "subscription_tier": 1,
                "session_count_7d": 2,
                "first_session_was_success": 1,
            },
        )
    ]


@hard_case
def case_every_rejection(raw: RawData) -> list[Expect]:
    """Every reason in every table where it can occur, each row beside a sound one of the same customer."""
    raw.customer("reject")
    raw.customer("reject_clean")
    raw.session("reject_sound", "reject", D - 2 * DAY)
    when = D - 2 * DAY
    early = SIGNUP - DAY - US

    # missing_key
    raw.customer("reject", customer_id=None)
    raw.tutor("reject_t", tutor_id=None)
    raw.session("reject_s", "reject", when, session_id=None)
    for _ in range(2):  # the whole row twice counts once
        raw.session("reject_s1", "reject", when, customer_id=None, tutor_id="t")
    raw.call("reject_c", "reject", when, call_id=None)
    raw.call("reject_c", "reject", when, call_id=None)
    raw.call("reject_c1", "reject", when, customer_id=None)
    raw.payment("reject_p", "reject", when, "1.00", payment_id=None)
    raw.payment("reject_p1", "reject", when, "1.00", customer_id=None)
    raw.event("reject_e", "reject", when, event_id=None)
    raw.event("reject_e1", "reject", when, customer_id=None)
    raw.availability(None)
    raw.availability("reject_t", week_start=None)

    # unknown_customer, though the rest is broken as well
    raw.session("reject_s2", "nobody", when, tutor_id="t", rating=9, rated_at=None)
    raw.call("reject_c2", "nobody", when)
    raw.payment("reject_p2", "nobody", when, "-1.00")
    raw.event("reject_e2", "nobody", when, event_type="logout")

    # missing_timestamp
    raw.customer("reject_m")
    raw.tables["raw_customers"][-1]["signed_up_at"] = None
    raw.event("reject_e0", "reject_m", when)  # of a customer without any valid version: sound, but never seen
    for number, name in enumerate(("booked_at", "scheduled_at", "resolved_at")):
        raw.session(f"reject_s3{number}", "reject", when)
        raw.tables["raw_sessions"][-1][name] = None
    raw.session("reject_s33", "reject", when, rating=9)
    raw.session("reject_s34", "reject", when, status="done", resolved_at=None)
    raw.call("reject_c3", "reject", when)
    raw.tables["raw_calls"][-1]["called_at"] = None
    raw.payment("reject_p3", "reject", when, "1.00")
    raw.tables["raw_payments"][-1]["attempted_at"] = None
    raw.event("reject_e3", "reject", when)
    raw.tables["raw_app_events"][-1]["occurred_at"] = None

    # unknown_value
    raw.customer("reject_u1", subscription_tier="gold")
    raw.customer("reject_u2", acquisition_channel="")
    raw.customer("reject_u3", grade_level="High_School")
    raw.tutor("reject_t4", subjects="algebra_1,astrology")
    raw.tutor("reject_t5", subjects=None)
    for number, changes in enumerate(
        (
            {"status": "done"},
            {"status": None},
            {"subject": None},
            {"subject": "Algebra_1", "rating": 9, "rated_at": when},
        )
    ):
        raw.session(f"reject_s4{number}", "reject", when, **changes)
    for number, changes in enumerate(
        ({"direction": "up"}, {"direction": None}, {"reason": "none"}, {"reason": None})
    ):
        raw.call(f"reject_c4{number}", "reject", when, **changes)
    raw.payment("reject_p40", "reject", when, "1.00", status="done")
    raw.payment("reject_p41", "reject", when, "1.00", status=None)
    raw.event("reject_e40", "reject", when, event_type="logout")
    raw.event("reject_e41", "reject", when, event_type=None)
    raw.availability("reject_t6", subject="astrology")

    # out_of_range
    for number, rating in enumerate((0, 6, -1)):
        raw.session(f"reject_s5{number}", "reject", when, rating=rating, rated_at=when)
    raw.session("reject_s54", "reject", when, duration_minutes=-1)
    for number, score in enumerate((-1.0000000000000002, 1.0000000000000002, float("nan"), float("inf"))):
        raw.call(f"reject_c5{number}", "reject", when, sentiment_score=score)
    raw.call("reject_c54", "reject", when, duration_seconds=-1)
    raw.payment("reject_p5", "reject", when, "-0.01")
    raw.availability("reject_t7", available_hours=-0.5)
    raw.availability("reject_t8", available_hours=float("nan"))

    # event_after_load: more than 24 hours; exactly 24 hours is sound
    late = {"loaded_at": when - DAY - US}
    raw.customer("reject_a1", when, **late)
    raw.customer("reject_a2", SIGNUP, updated_at=when, **late)
    raw.session("reject_s60", "reject", when, **late)
    raw.session("reject_s61", "reject", None, booked_at=when, scheduled_at=D, **late)
    raw.session("reject_s62", "reject", None, booked_at=when - DAY, confirmed_at=when, scheduled_at=D, **late)
    raw.session("reject_s63", "reject", when - DAY, rating=5, rated_at=when, **late)
    raw.session(
        "reject_s64", "reject", when, status="scheduled", **late
    )  # resolved_at of no outcome is no fact
    raw.session("reject_s65", "reject", when - DAY, rated_at=when, **late)  # rated_at of no rating is no fact
    raw.call("reject_c6", "reject", when, **late)
    raw.payment("reject_p6", "reject", when, "1.00", **late)
    raw.event("reject_e6", "reject", when, **late)
    raw.event("reject_e61", "reject", when, loaded_at=when - DAY)

    # event_before_signup: more than 24 hours; exactly 24 hours is sound
    raw.customer("reject_b1", updated_at=early)
    raw.session("reject_s70", "reject", SIGNUP, booked_at=early)
    raw.session("reject_s71", "reject", None, scheduled_at=D, booked_at=SIGNUP, confirmed_at=early)
    raw.session("reject_s72", "reject", early, booked_at=SIGNUP)
    raw.session("reject_s73", "reject", SIGNUP, booked_at=SIGNUP, rating=5, rated_at=early)
    raw.call("reject_c7", "reject", early)
    raw.payment("reject_p7", "reject", early, "1.00")
    raw.event("reject_e7", "reject", early)
    raw.event("reject_e71", "reject", SIGNUP - DAY)
    return [
        Expect("reject", D, {"session_count_7d": 2, "ib_call_count_30d": 0, "login_count_7d": 1}),
        Expect("reject_clean", D, {"session_count_7d": 0}),
        Expect("reject_m", D, None),
        Expect("reject_u1", D, None),
    ]


# === Random worlds ========================================================================================

MICROSECOND_STEPS = (-1, 0, 0, 0, 1)


class RandomWorld:
    """A small marketplace in which everything awkward happens often; disjoint from any other by its name.

    It spans 120 to 200 days to a little after AS_OF, so that some rows have not landed by then. Events of
    the past may be delivered at any later time; corrections, repetitions and broken rows are frequent.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = np.random.default_rng(seed)
        self.raw = RawData()
        self.start = AS_OF - int(self.random.integers(120, 201)) * DAY
        self.end = AS_OF + 10 * DAY
        self.tutors = [f"{name}_t{number}" for number in range(3)]
        self.customers: dict[str, datetime] = {}
        self.numbers = 0

    # --- small words --------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.random.random() < probability)

    def pick(self, values: Iterable[Any], weights: Iterable[float] | None = None) -> Any:
        """One of the values."""
        values = list(values)
        if weights is None:
            return values[int(self.random.integers(len(values)))]
        weights = np.array(list(weights), dtype=float)
        return values[int(self.random.choice(len(values), p=weights / weights.sum()))]

    def moment(self, earliest: datetime, latest: datetime) -> datetime:
        """A moment between; often a midnight or a microsecond beside one, often a full hour, so that ties
        abound.
        """
        seconds = max(1, int((latest - earliest).total_seconds()))
        moment = earliest + timedelta(seconds=int(self.random.integers(seconds)))
        kind = self.random.random()
        if kind < 0.3:
            midnight = datetime.combine(moment.date(), time.min)
            return max(earliest, midnight + self.pick(MICROSECOND_STEPS) * US)
        if kind < 0.6:
            return max(earliest, moment.replace(minute=0, second=0))
        return moment + int(self.random.integers(1_000_000)) * US

    def load(self, happened: datetime) -> datetime | None:
        """When a thing that happened then is delivered: mostly the next night, at times hours to months
        later.
        """
        tonight = datetime.combine(happened.date(), time.min) + DAY
        return self.pick(
            (
                tonight + 2 * HOUR,
                tonight + GRACE,  # a moment too late
                tonight + GRACE - US,
                tonight + self.pick((7, 13, 20)) * HOUR,
                tonight + self.pick((1, 2, 3, 5, 8)) * DAY + 2 * HOUR,
                tonight + self.pick((30, 61, 92)) * DAY + 2 * HOUR,
                happened + self.pick((0, -20, -23)) * HOUR,  # known at once, or announced
                None,
            ),
            (60, 4, 4, 6, 12, 4, 6, 1),
        )

    def next_id(self, kind: str) -> str:
        """An id that does not sort by age."""
        self.numbers += 1
        return f"{self.name}_{kind}{int(self.random.integers(100))}_{self.numbers}"

    def later(self, loaded_at: datetime | None) -> datetime:
        """A load after another one."""
        earliest = loaded_at or self.start
        return self.pick(
            (earliest + DAY, earliest + 3 * DAY, self.moment(earliest + US, earliest + 40 * DAY))
        )

    # --- the marketplace ----------------------------------------------------------------------------------

    def build(self) -> RawData:
        """All rows."""
        for tutor in self.tutors:
            self.raw.tutor(tutor)
            self.raw.availability(tutor)
        for number in range(int(self.random.integers(5, 16))):
            self.add_customer(f"{self.name}_c{number}")
        for customer, signed_up_at in list(self.customers.items()):
            busy = self.pick((0, 3, 12, 35), (1, 2, 4, 3))
            for _ in range(int(busy)):
                self.add_session(customer, signed_up_at)
            for _ in range(int(self.random.integers(0, busy + 2))):
                self.add_call(customer, signed_up_at)
                self.add_payment(customer, signed_up_at)
            for _ in range(int(self.random.integers(0, 2 * busy + 2))):
                self.add_event(customer, signed_up_at)
        return self.raw

    def add_customer(self, customer: str) -> None:
        """A customer with a few profile versions, at times known late."""
        signed_up_at = self.moment(self.start, self.end)
        self.customers[customer] = signed_up_at
        tiers, channels = (
            ("budget", "standard", "premium", None),
            ("organic", "referral", "paid_google", None),
        )
        grades = ("college", "elementary", None)
        row = self.raw.customer(
            customer,
            signed_up_at,
            subscription_tier=self.pick(tiers),
            acquisition_channel=self.pick(channels),
            grade_level=self.pick(grades),
            loaded_at=self.load(signed_up_at),
        )
        for _ in range(self.pick((0, 1, 3))):
            updated_at = self.pick((row["updated_at"], self.moment(signed_up_at, self.end)))
            loaded_at = self.load(updated_at) or self.later(row["loaded_at"])
            changes = {"subscription_tier": self.pick((*tiers, "gold"), (4, 4, 4, 2, 1))}
            if self.chance(0.2):  # a correction that turns no fact into one before the signup
                changes["signed_up_at"] = signed_up_at + self.pick((-30, -5, 8)) * HOUR
            row = self.raw.add("raw_customers", row, updated_at=updated_at, loaded_at=loaded_at, **changes)

    def add_session(self, customer: str, signed_up_at: datetime) -> None:
        """A session from booking to rating, delivered in some of its states, and corrected."""
        raw = self.raw
        session_id = self.next_id("s")
        booked_at = self.moment(signed_up_at, self.end - 2 * DAY)
        scheduled_at = self.moment(booked_at, booked_at + self.pick((2, 10, 40)) * DAY)
        subject = self.pick(SUBJECTS[:4])
        tutor = self.pick(self.tutors, (5, 3, 1))
        common = {"booked_at": booked_at, "scheduled_at": scheduled_at, "subject": subject, "tutor_id": tutor}
        row = None
        if self.chance(0.7):
            row = raw.session(session_id, customer, None, loaded_at=self.load(booked_at), **common)
            if self.chance(0.5):
                confirmed_at = self.moment(booked_at, booked_at + self.pick((1, 3)) * DAY)
                loaded_at = self.load(confirmed_at) or self.later(row["loaded_at"])
                row = self.version("raw_sessions", row, loaded_at, confirmed_at=confirmed_at)
            if self.chance(0.1):
                row = self.version(
                    "raw_sessions", row, self.later(row["loaded_at"]), scheduled_at=scheduled_at + DAY
                )
        if row is not None and self.chance(0.12):
            return
        status = self.pick(
            ("completed", "cancelled_by_customer", "cancelled_by_tutor", "no_show"), (8, 1, 1, 1)
        )
        resolved_at = self.moment(scheduled_at, scheduled_at + HOUR) if self.chance(0.7) else scheduled_at
        minutes = self.pick((30, 45, 61, None)) if status == "completed" else None
        outcome = {"status": status, "duration_minutes": minutes, "resolved_at": resolved_at}
        rated_at = self.moment(resolved_at, resolved_at + self.pick((1, 9)) * DAY)
        rating = {"rating": int(self.random.integers(1, 6)), "rated_at": rated_at}
        at_once = self.chance(0.4)
        if at_once:
            outcome |= rating
        loaded_at = self.load(max(resolved_at, rated_at) if at_once else resolved_at)
        if row is None:
            row = raw.session(session_id, customer, resolved_at, loaded_at=loaded_at, **common, **outcome)
        else:
            row = self.version("raw_sessions", row, loaded_at or self.later(row["loaded_at"]), **outcome)
        if not at_once and self.chance(0.5):
            row = self.version(
                "raw_sessions", row, self.load(rated_at) or self.later(row["loaded_at"]), **rating
            )
        for _ in range(self.pick((0, 0, 0, 1, 2))):
            row = self.correct_session(row)

    def correct_session(self, row: Row, loaded_at: datetime | None = None) -> Row:
        """Another version of a session: the same once more, or with something else in it, at times
        nonsense.
        """
        other_status = self.pick(("completed", "no_show", "cancelled_by_customer", "scheduled"))
        resolved_at = row["resolved_at"] or row["scheduled_at"]
        changes = self.pick(
            (
                {},
                {"status": other_status, "resolved_at": resolved_at},
                {"status": other_status, "resolved_at": resolved_at, "tutor_id": self.pick(self.tutors)},
                {"rating": int(self.random.integers(1, 6)), "rated_at": row["rated_at"] or resolved_at},
                {"tutor_id": self.pick(self.tutors), "subject": self.pick(SUBJECTS[:4])},
                {
                    "resolved_at": None
                    if row["resolved_at"] is None
                    else row["resolved_at"] + self.pick((-1, 5)) * HOUR
                },
                {"subject": "astrology"},
                {"rating": 7, "rated_at": resolved_at},
            ),
            (3, 3, 2, 2, 2, 2, 1, 1),
        )
        return self.version("raw_sessions", row, loaded_at or self.later(row["loaded_at"]), **changes)

    def version(self, table: str, row: Row, loaded_at: datetime, **changes: Any) -> Row:
        """A later version of a row; at times delivered twice, or twice with different content."""
        changed = self.raw.again(table, row, loaded_at, **changes)
        if self.chance(0.08):
            self.raw.add(table, changed)
        if self.chance(0.05):
            self.raw.add(table, row, **{"loaded_at": loaded_at})
        return changed

    def add_call(self, customer: str, signed_up_at: datetime) -> None:
        """A call, at times corrected."""
        called_at = self.moment(signed_up_at, self.end)
        row = self.raw.call(
            self.next_id("k"),
            customer,
            called_at,
            direction=self.pick(("inbound", "outbound"), (4, 1)),
            sentiment_score=self.pick((None, -0.3, -0.31, -1.0, 0.0, 1.0, 1.5), (2, 2, 2, 2, 2, 2, 1)),
            loaded_at=self.load(called_at),
        )
        if self.chance(0.2):
            changes = self.pick(
                ({"direction": "outbound"}, {"direction": "inbound"}, {"called_at": called_at + DAY})
            )
            self.version("raw_calls", row, self.later(row["loaded_at"]), **changes)

    def add_payment(self, customer: str, signed_up_at: datetime) -> None:
        """A payment through some of its states."""
        attempted_at = self.moment(signed_up_at, self.end)
        row = self.raw.payment(
            self.next_id("p"),
            customer,
            attempted_at,
            f"{int(self.random.integers(0, 30_000)) / 100:.2f}",
            status=self.pick(("succeeded", "failed", "pending", "refunded")),
            loaded_at=self.load(attempted_at),
        )
        while self.chance(0.4):
            changes = {
                "status": self.pick(("succeeded", "failed", "pending", "refunded", "lost"), (4, 2, 1, 2, 1))
            }
            if self.chance(0.2):
                changes["amount"] = Decimal(int(self.random.integers(-100, 9_999))) / 100
            row = self.version("raw_payments", row, self.later(row["loaded_at"]), **changes)

    def add_event(self, customer: str, signed_up_at: datetime) -> None:
        """A login or message, at times corrected, of another customer, or of nobody."""
        occurred_at = self.moment(signed_up_at - 10 * HOUR, self.end)
        kind = self.pick(("login", "message_sent", "logout"), (8, 4, 1))
        row = self.raw.event(
            self.next_id("e"), customer, occurred_at, event_type=kind, loaded_at=self.load(occurred_at)
        )
        if self.chance(0.1):
            changes = self.pick(
                (
                    {"event_type": "message_sent"},
                    {"occurred_at": occurred_at + 5 * HOUR},
                    {"customer_id": f"{self.name}_nobody"},
                    {"customer_id": None},
                )
            )
            self.version("raw_app_events", row, self.later(row["loaded_at"]), **changes)


def random_worlds(count: int, seed: int, prefix: str = "w") -> RawData:
    """Several random worlds side by side."""
    raw = RawData()
    for number in range(count):
        raw = raw + RandomWorld(f"{prefix}{number}", seed + number).build()
    return raw


# === Mutations ============================================================================================


class Mutation(RandomWorld):
    """Rows that must not change any snapshot up to `cutoff`: they happen after it, arrive after it, or are
    broken.
    """

    def __init__(self, before: RawData, cutoff: datetime, seed: int) -> None:
        super().__init__("mutant", seed)
        self.before = before
        self.cutoff = cutoff

    def build(self) -> RawData:
        """The rows to append."""
        self.correct_what_is_there()
        self.add_arrivals()
        self.add_announcements()
        self.add_broken_rows()
        return self.raw

    def arrival(self) -> datetime:
        """A load too late for the snapshot of the cutoff."""
        return self.cutoff + GRACE + self.pick((timedelta(0), HOUR, 3 * DAY, self.pick(range(80)) * DAY))

    def some(self, table: str, count: int) -> list[Row]:
        """Some sound rows that are there already, none of them from the cases about the contract itself."""
        rows = [
            row
            for row in self.before.tables[table]
            if None not in [row[name] for name in PRIMARY_KEY[table]] and not str(row).count("reject")
        ]
        return [self.pick(rows) for _ in range(count)]

    def correct_what_is_there(self) -> None:
        """Corrections and repetitions of rows of every table, all of which arrive after the cutoff."""
        for row in self.some("raw_sessions", 120):
            if row["booked_at"] is not None and row["scheduled_at"] is not None:
                self.correct_session(row, self.arrival())
        for row in self.some("raw_calls", 30):
            changes = self.pick(
                ({}, {"direction": "outbound"}, {"direction": "inbound", "sentiment_score": -0.9})
            )
            self.version("raw_calls", row, self.arrival(), **changes)
        for row in self.some("raw_payments", 40):
            changes = self.pick(
                ({}, {"status": "refunded"}, {"status": "succeeded", "amount": Decimal("123.45")})
            )
            self.version("raw_payments", row, self.arrival(), **changes)
        for row in self.some("raw_app_events", 40):
            changes = self.pick(({}, {"event_type": "message_sent"}, {"occurred_at": self.cutoff - 2 * DAY}))
            self.version("raw_app_events", row, self.arrival(), **changes)
        for row in self.some("raw_customers", 30):
            changes = self.pick(
                ({}, {"subscription_tier": "premium"}, {"grade_level": None}, {"subscription_tier": "x"})
            )
            if row["signed_up_at"] is not None:
                updated_at = self.pick((row["updated_at"], self.cutoff - HOUR))
                self.raw.add("raw_customers", row, loaded_at=self.arrival(), updated_at=updated_at, **changes)

    def add_arrivals(self) -> None:
        """New rows about the past of customers old and new, and new customers, some with facts that came
        before.
        """
        known = {row["customer_id"]: row["signed_up_at"] for row in self.some("raw_customers", 25)}
        newcomers = {f"mutant_c{number}": self.cutoff - (5 + number) * DAY for number in range(6)}
        nobodies = {
            row["customer_id"]: self.cutoff - 100 * DAY
            for row in self.before.tables["raw_app_events"]
            if str(row["customer_id"]).endswith("_nobody")
        }
        for customer, signed_up_at in (newcomers | nobodies).items():
            self.raw.customer(customer, signed_up_at, loaded_at=self.arrival())
        tutors = sorted({row["tutor_id"] for row in self.some("raw_sessions", 60)})
        for customer, signed_up_at in (known | newcomers | nobodies).items():
            if signed_up_at is None or signed_up_at >= self.cutoff:
                continue
            for number in range(4):
                moment = self.moment(max(signed_up_at, self.cutoff - 40 * DAY), self.cutoff)
                # what belongs to an unknown customer may well have arrived in time
                loaded_at = (
                    self.pick((night_after(moment), self.arrival()))
                    if customer not in known
                    else self.arrival()
                )
                key = f"mutant_{customer}_{number}"
                self.raw.session(
                    key, customer, moment, booked_at=moment - HOUR, tutor_id=self.pick(tutors), rating=1,
                    rated_at=moment, confirmed_at=moment, loaded_at=loaded_at,
                )  # fmt: skip
                self.raw.event(key, customer, moment, loaded_at=loaded_at)
                self.raw.call(key, customer, moment, loaded_at=loaded_at, sentiment_score=-1.0)
                self.raw.payment(key, customer, moment, "99.99", loaded_at=loaded_at)

    def add_announcements(self) -> None:
        """New facts at or after the cutoff that were delivered before it."""
        for number, row in enumerate(self.some("raw_customers", 25)):
            moment = self.cutoff + self.pick((timedelta(0), 3 * HOUR, 20 * HOUR))
            customer, key, told = (
                row["customer_id"],
                f"mutant_ahead_{number}",
                {"loaded_at": moment - 22 * HOUR},
            )
            self.raw.session(key, customer, None, booked_at=moment, scheduled_at=moment + DAY, **told)
            self.raw.event(key, customer, moment, **told)
            self.raw.call(key, customer, moment, **told)
            self.raw.payment(key, customer, moment, "77.77", **told)

    def add_broken_rows(self) -> None:
        """Rows that break the contract, whenever they arrived: they count for nothing."""
        any_time = self.cutoff - 10 * DAY + 1234 * US  # a load that no other row has
        for row in self.some("raw_sessions", 40):
            changes = self.pick(
                (
                    {"subject": "astrology"},
                    {"customer_id": "mutant_nobody"},
                    {"rating": 9, "rated_at": self.cutoff},
                )
            )
            self.raw.add("raw_sessions", row, **{"loaded_at": any_time, **changes})
        for row in self.some("raw_payments", 20):
            self.raw.add("raw_payments", row, loaded_at=any_time, amount=Decimal("-5.00"))
        for row in self.some("raw_app_events", 20):
            self.raw.add("raw_app_events", row, loaded_at=any_time, event_type="logout")
        for row in self.some("raw_calls", 20):
            self.raw.add("raw_calls", row, loaded_at=any_time, sentiment_score=2.0)
