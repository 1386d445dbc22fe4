"""The labels of some customers, computed a second time: plain Python over the accepted rows, no SQL windows.

What counts as an accepted row is taken from staging; everything after that (which version holds, lapses,
the health index over the next 30 days, maturity) is done here as the definition says it, row by row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import duckdb

from training.split import customer_hashes

DAY = timedelta(days=1)
SAMPLE = 500
"""Customers whose labels are computed again: those with the least hashes of their ids."""


@dataclass
class History:
    """All that is known of one customer by now."""

    signed_up_at: datetime
    completed: list[tuple[datetime, str, str, int | None, datetime | None]] = field(default_factory=list)
    """(resolved_at, session_id, tutor_id, rating, rated_at) in the order of time."""
    ratings: list[tuple[datetime, int]] = field(default_factory=list)
    calls: list[datetime] = field(default_factory=list)
    payments: list[tuple[datetime, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """Of one label: values compared (null or not) and those that differ."""

    label: str
    compared: int
    not_null: int
    differing: int


def sampled_customers(warehouse: duckdb.DuckDBPyConnection, most: int = SAMPLE) -> list[str]:
    """Ids of at most so many customers of labels.customer_labels, the same ones on every machine."""
    customers = [
        row[0]
        for row in warehouse.execute("select distinct customer_id from labels.customer_labels").fetchall()
    ]
    hashes = customer_hashes(customers)
    return [customer for _, customer in sorted(zip(hashes.tolist(), customers, strict=True))[:most]]


def compare_labels(
    warehouse: duckdb.DuckDBPyConnection, variables: Mapping[str, Any], customers: Iterable[str]
) -> list[Comparison]:
    """Every label of every snapshot of these customers, recomputed and compared.

    `variables` are the vars of dbt_project.yml. A number differs when it is off by more than 1e-9.
    """
    chosen = list(customers)
    histories = _histories(warehouse, chosen)
    weights = {
        part: (weight, full_scale)
        for part, weight, full_scale in warehouse.execute(
            "select part, weight, full_scale from reference.health_score_weights"
        ).fetchall()
    }
    as_of = warehouse.execute("select max(feature_timestamp) from features.customer_features").fetchall()[0][
        0
    ]
    result = warehouse.execute(
        "select * from labels.customer_labels where customer_id in (select unnest($1))", [chosen]
    )
    names = [column[0] for column in result.description]
    compared, not_null, differing = Counter(), Counter(), Counter()
    for values in result.fetchall():
        row = dict(zip(names, values, strict=True))
        again = labels(histories[row["customer_id"]], row["feature_timestamp"], as_of, variables, weights)
        for name, value in again.items():
            compared[name] += 1
            not_null[name] += row[name] is not None
            differing[name] += not _equal(row[name], value)
    return [Comparison(name, compared[name], not_null[name], differing[name]) for name in compared]


def labels(
    known: History,
    at: datetime,
    as_of: datetime,
    variables: Mapping[str, Any],
    weights: Mapping[str, tuple[float, float]],
) -> dict[str, float | None]:
    """The five labels of a customer at a snapshot; None before they are mature at `as_of`."""
    lapse = variables["lapse_days"] * DAY
    within_14 = _lapsed_around(known, at + 14 * DAY, lapse)
    within_30 = _lapsed_around(known, at + 30 * DAY, lapse)
    computed = {
        "label_churn_risk_14d": (float(within_14), 14 * DAY + lapse),
        "label_churn_risk_30d": (float(within_14 or within_30), 30 * DAY + lapse),
        "label_session_velocity": (
            sum(at <= session[0] < at + 28 * DAY for session in known.completed) / 4,
            28 * DAY,
        ),
        "label_health_score": (_health_score(known, at, variables, weights), 30 * DAY),
        "label_first_session_success": (
            _first_session_success(known, at, variables["success_rating"]),
            21 * DAY,
        ),
    }
    return {name: value if at + wait <= as_of else None for name, (value, wait) in computed.items()}


def _lapsed_around(known: History, horizon: datetime, lapse: timedelta) -> bool:
    moments = [session[0] for session in known.completed]
    last = max((moment for moment in moments if moment < horizon), default=known.signed_up_at)
    following = min((moment for moment in moments if moment >= horizon), default=None)
    return following is None or following - last > lapse


def _health_score(
    known: History,
    at: datetime,
    variables: Mapping[str, Any],
    weights: Mapping[str, tuple[float, float]],
) -> float:
    end = at + 30 * DAY
    within = [session for session in known.completed if at <= session[0] < end]
    stars = [rating for moment, rating in known.ratings if at <= moment < end] or [
        rating for moment, rating in known.ratings if moment < end
    ]
    paid = [succeeded for moment, succeeded in known.payments if at <= moment < end] or [
        succeeded for moment, succeeded in known.payments if moment < end
    ]
    tutors = Counter(session[2] for session in within[-20:])
    # Whole days back to the last session of the window; without one recency is used up in any case.
    since = (end - within[-1][0]) // DAY if within else 30
    scaled = {
        "engagement": min(1.0, len(within) * 7.0 / 30 / weights["engagement"][1]),
        "recency": max(0.0, 1 - since / weights["recency"][1]),
        "satisfaction": ((sum(stars) / len(stars) if stars else variables["neutral_rating"]) - 1)
        / weights["satisfaction"][1],
        "payment": sum(paid) / len(paid) if paid else 1.0,
        "support": max(
            0.0,
            1 - sum(end - 14 * DAY <= moment < end for moment in known.calls) / weights["support"][1],
        ),
        "tutor": max(tutors.values()) / tutors.total() if tutors else 0.0,
    }
    return sum(weights[part][0] * value for part, value in scaled.items())


def _first_session_success(known: History, at: datetime, success_rating: float) -> float | None:
    if not known.completed:
        return None
    resolved_at, _, _, rating, rated_at = known.completed[0]
    if not at <= resolved_at < at + 14 * DAY or rating is None or rated_at is None:
        return None
    return float(rating >= success_rating) if rated_at - resolved_at <= 7 * DAY else None


def _histories(warehouse: duckdb.DuckDBPyConnection, customers: list[str]) -> dict[str, History]:
    def latest(table: str, key: str, columns: str, update: str) -> list[tuple]:
        # Chosen among all versions first, because a row may change hands.
        return warehouse.execute(
            f"""
            select customer_id, {columns} from (
                select * from staging.{table}
                qualify row_number() over (
                    partition by {key} order by loaded_at desc nulls last, {update} desc nulls last
                ) = 1
            )
            where customer_id in (select unnest($1))
            """,
            [customers],
        ).fetchall()

    histories = {
        customer: History(signed_up_at)
        for customer, signed_up_at in latest("stg_customers", "customer_id", "signed_up_at", "updated_at")
    }
    by_customer: dict[str, list[tuple]] = defaultdict(list)
    for customer, *session in latest(
        "stg_sessions",
        "session_id",
        "status, resolved_at, session_id, tutor_id, rating, rated_at",
        "updated_at",
    ):
        by_customer[customer].append(tuple(session))
    for customer, sessions in by_customer.items():
        known = histories[customer]
        known.completed = sorted(
            (session[1:] for session in sessions if session[0] == "completed"),
            key=lambda session: session[:2],
        )
        known.ratings = [(session[5], session[4]) for session in sessions if session[4] is not None]
    for customer, called_at, direction in latest("stg_calls", "call_id", "called_at, direction", "called_at"):
        if direction == "inbound":
            histories[customer].calls.append(called_at)
    for customer, attempted_at, status in latest(
        "stg_payments", "payment_id", "attempted_at, status", "updated_at"
    ):
        if status in ("succeeded", "failed"):
            histories[customer].payments.append((attempted_at, status == "succeeded"))
    return histories


def _equal(stored: float | None, computed: float | None) -> bool:
    if stored is None or computed is None:
        return stored is computed
    return abs(stored - computed) <= 1e-9
