"""Health index, labels and segment (labels-and-health.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .contract import DAY
from .facts import World
from .features import Value, days_since, first_mean, success_rate, tutor_consistency
from .raw import Row

LABELS = [
    "label_churn_risk_14d",
    "label_churn_risk_30d",
    "label_session_velocity",
    "label_health_score",
    "label_first_session_success",
]


def health_index(
    weekly_sessions: float,
    days_since_session: int,
    average_rating: float,
    payment_success: float,
    calls_14d: int,
    consistency: float,
) -> float:
    """The composite of labels-and-health.md, its parts added in the order of the table there."""
    engagement = min(1.0, weekly_sessions / 2.0)
    recency = max(0.0, 1 - days_since_session / 30.0)
    satisfaction = (average_rating - 1) / 4.0
    support = max(0.0, 1 - calls_14d / 4.0)
    return (
        35 * engagement
        + 20 * recency
        + 15 * satisfaction
        + 10 * payment_success
        + 10 * support
        + 10 * consistency
    )


def health_index_of_features(values: dict[str, Value]) -> float:
    """The index of today, from the features at D."""
    return health_index(
        values["session_frequency_30d"],
        values["days_since_last_session"],
        values["avg_rating_30d"],
        values["payment_success_rate_30d"],
        values["ib_call_count_14d"],
        values["tutor_consistency_score"],
    )


def segment(values: dict[str, Value]) -> str:
    """What a customer is at D; who never had a session is measured by the days since signup."""
    never = values["total_sessions_lifetime"] == 0
    clock = values["customer_tenure_days"] if never else values["days_since_last_session"]
    if clock >= 30:
        return "churned"
    index = health_index_of_features(values)
    if index >= 80:
        return "thriving"
    return "healthy" if index >= 60 else "at_risk"


@dataclass
class History:
    """All that the raw data say about a customer, each row by its latest valid version, by event_at alone."""

    signed_up_at: datetime
    completed: list[Row] = field(default_factory=list)  # ordered by (resolved_at, session_id)
    rated: list[Row] = field(default_factory=list)
    calls: list[datetime] = field(default_factory=list)  # inbound
    payments: list[tuple[datetime, str]] = field(default_factory=list)  # not pending


def history(world: World, customer_id: str) -> History:
    """The history of one customer."""

    def latest(table: str) -> Iterable[Row]:
        for key in world.keys_of_customer[table][customer_id]:
            version = world.versions[table][key][-1]
            if version["customer_id"] == customer_id:
                yield version

    (customer,) = latest("raw_customers")
    known = History(customer["signed_up_at"])
    for row in latest("raw_sessions"):
        if row["status"] == "completed":
            known.completed.append(row)
        if row["rating"] is not None:
            known.rated.append(row)
    known.completed.sort(key=lambda row: (row["resolved_at"], row["session_id"]))
    known.calls = [row["called_at"] for row in latest("raw_calls") if row["direction"] == "inbound"]
    known.payments = [
        (row["attempted_at"], row["status"]) for row in latest("raw_payments") if row["status"] != "pending"
    ]
    return known


def labels(world: World, customer_id: str, at: datetime, as_of: datetime) -> dict[str, Value | None]:
    """The five labels of a customer at D; each is None until it is mature at `as_of`."""
    known = history(world, customer_id)
    churn_14d, churn_30d = (lapsed_around(world, known, at + n * DAY) for n in (14, 30))
    computed = {
        "label_churn_risk_14d": (int(churn_14d), 44),
        # a lapse that starts before D + 14 days starts before D + 30 days, even if it is over by then
        "label_churn_risk_30d": (int(churn_14d or churn_30d), 60),
        "label_session_velocity": (session_velocity(known, at), 28),
        "label_health_score": (health_score(world, known, at), 30),
        "label_first_session_success": (first_session_success(world, known, at), 21),
    }
    return {
        name: value if as_of >= at + timedelta(days=matures_after) else None
        for name, (value, matures_after) in computed.items()
    }


def lapsed_around(world: World, known: History, horizon: datetime) -> bool:
    """Whether the customer is in a lapse at the horizon that started before it."""
    moments = [row["resolved_at"] for row in known.completed]
    last_before = max([moment for moment in moments if moment < horizon], default=known.signed_up_at)
    first_after = min([moment for moment in moments if moment >= horizon], default=None)
    return first_after is None or first_after - last_before > world.settings.lapse


def session_velocity(known: History, at: datetime) -> float:
    """Completed sessions a week over four weeks."""
    return sum(at <= row["resolved_at"] < at + 28 * DAY for row in known.completed) / 4


def health_score(world: World, known: History, at: datetime) -> float:
    """The health index over [D, D + 30 days)."""
    end = at + 30 * DAY
    before = [row for row in known.completed if row["resolved_at"] < end]
    within = [row for row in before if row["resolved_at"] >= at]
    ratings = [row for row in known.rated if row["rated_at"] < end]
    payments = [(moment, status) for moment, status in known.payments if moment < end]
    return health_index(
        len(within) * 7.0 / 30,
        days_since([row["resolved_at"] for row in before], end),
        first_mean(
            [row["rating"] for row in ratings if row["rated_at"] >= at],
            [row["rating"] for row in ratings],
            default=world.settings.neutral_rating,
        ),
        success_rate(
            [status for moment, status in payments if moment >= at], [status for _, status in payments]
        ),
        sum(end - 14 * DAY <= moment < end for moment in known.calls),
        tutor_consistency([row["tutor_id"] for row in within[-20:]]),
    )


def first_session_success(world: World, known: History, at: datetime) -> int | None:
    """Whether the first session, when it falls in [D, D + 14 days) and is rated within a week, was liked."""
    if not known.completed:
        return None
    first = known.completed[0]
    if not at <= first["resolved_at"] < at + 14 * DAY:
        return None
    if first["rating"] is None or first["rated_at"] - first["resolved_at"] > 7 * DAY:
        return None
    return int(first["rating"] >= world.settings.success_rating)
