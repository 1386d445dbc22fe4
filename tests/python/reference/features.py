"""The 59 features of one customer at one snapshot time, each as features.md words it."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from .contract import CHANNEL_CODE, DAY, GRADE_CODE, SUBJECT_CODE, TIER_CODE
from .facts import Facts, Outcome, Rating, World

Value = int | float
WINDOWS = (7, 14, 30)
NEVER = 999


def _windowed(*names: str) -> list[str]:
    return [f"{name}_{w}d" for name in names for w in WINDOWS]


#: the names in the order of features.md
FEATURES: list[str] = [
    *_windowed("session_count", "session_frequency", "avg_rating", "cancellation_rate", "no_show_rate"),
    *_windowed("avg_session_duration", "ib_call_count", "negative_calls", "login_count", "message_count"),
    *_windowed("active_days", "payment_success_rate", "payment_amount"),
    "days_since_last_session",
    "days_since_last_login",
    "days_since_last_payment",
    "days_since_last_ib_call",
    "customer_tenure_days",
    "total_sessions_lifetime",
    "total_spend_lifetime",
    "subscription_tier",
    "acquisition_channel",
    "grade_level",
    "primary_subject",
    "tutor_consistency_score",
    "primary_tutor_rating",
    "tutor_switch_count_30d",
    "avg_tutor_response_time_hours",
    "first_session_was_success",
    "session_velocity_change",
    "rating_trend",
    "engagement_trend",
    "spend_acceleration",
]


def in_scope(world: World, facts: Facts, at: datetime) -> bool:
    """A visible signup, and some sign of life in the last 90 days (the signup is one)."""
    if facts.signed_up_at is None:
        return False
    signs = [
        facts.signed_up_at,
        *(outcome.event_at for outcome in facts.completed),
        *facts.logins,
        *facts.messages,
        *(payment.event_at for payment in facts.payments if payment.status in ("succeeded", "failed")),
        *(call.event_at for call in facts.calls),
    ]
    return max(signs) >= at - world.settings.in_scope


def features(world: World, customer_id: str, at: datetime) -> dict[str, Value] | None:
    """The 59 features at `at`, or None where the customer is not in scope."""
    facts = world.facts(customer_id, at)
    if not in_scope(world, facts, at):
        return None
    values: dict[str, Value] = {}
    values |= session_features(world, facts, at)
    values |= call_features(world, facts, at)
    values |= engagement_features(facts, at)
    values |= payment_features(facts, at)
    values |= tutor_features(world, facts, at)
    values |= profile_features(facts, at)
    return {name: values[name] for name in FEATURES}


def session_features(world: World, facts: Facts, at: datetime) -> dict[str, Value]:
    """Features 1-18, 40, 45, 55-57."""
    values: dict[str, Value] = {}
    completed = facts.completed
    for w in WINDOWS:
        start = at - timedelta(days=w)
        done = [outcome for outcome in completed if outcome.event_at >= start]
        resolved = [outcome for outcome in facts.outcomes if outcome.event_at >= start]
        cancelled = [outcome for outcome in resolved if outcome.status == "cancelled_by_customer"]
        no_shows = [outcome for outcome in resolved if outcome.status == "no_show"]
        values[f"session_count_{w}d"] = len(done)
        values[f"session_frequency_{w}d"] = len(done) * 7.0 / w
        values[f"avg_rating_{w}d"] = first_mean(
            [rating.rating for rating in facts.ratings if rating.event_at >= start],
            [rating.rating for rating in facts.ratings],
            default=world.settings.neutral_rating,
        )
        values[f"cancellation_rate_{w}d"] = len(cancelled) / len(resolved) if resolved else 0.0
        values[f"no_show_rate_{w}d"] = len(no_shows) / len(resolved) if resolved else 0.0
        values[f"avg_session_duration_{w}d"] = first_mean(durations(done), durations(completed), default=0.0)
    values["days_since_last_session"] = days_since([outcome.event_at for outcome in completed], at)
    values["total_sessions_lifetime"] = len(completed)
    first_ratings = [rating.rating for rating in facts.ratings if completed and is_of(rating, completed[0])]
    values["first_session_was_success"] = int(any(r >= world.settings.success_rating for r in first_ratings))
    weekly_7d, weekly_30d = values["session_frequency_7d"], values["session_frequency_30d"]
    values["session_velocity_change"] = weekly_7d / weekly_30d - 1 if weekly_30d else 0.0
    values["rating_trend"] = values["avg_rating_7d"] - values["avg_rating_30d"]
    return values


def call_features(world: World, facts: Facts, at: datetime) -> dict[str, Value]:
    """Features 19-24, 43."""
    values: dict[str, Value] = {}
    for w in WINDOWS:
        calls = [call for call in facts.calls if call.event_at >= at - timedelta(days=w)]
        scores = [call.sentiment_score for call in calls if call.sentiment_score is not None]
        values[f"ib_call_count_{w}d"] = len(calls)
        values[f"negative_calls_{w}d"] = sum(score < world.settings.negative_sentiment for score in scores)
    values["days_since_last_ib_call"] = days_since([call.event_at for call in facts.calls], at)
    return values


def engagement_features(facts: Facts, at: datetime) -> dict[str, Value]:
    """Features 25-33, 41, 58."""
    values: dict[str, Value] = {}
    for w in WINDOWS:
        start = at - timedelta(days=w)
        logins = [moment for moment in facts.logins if moment >= start]
        messages = [moment for moment in facts.messages if moment >= start]
        sessions = [outcome.event_at for outcome in facts.completed if outcome.event_at >= start]
        active_days: set[date] = {moment.date() for moment in [*logins, *messages, *sessions]}
        values[f"login_count_{w}d"] = len(logins)
        values[f"message_count_{w}d"] = len(messages)
        values[f"active_days_{w}d"] = len(active_days)
    values["days_since_last_login"] = days_since(facts.logins, at)
    values["engagement_trend"] = values["login_count_7d"] - values["login_count_14d"] / 2.0
    return values


def payment_features(facts: Facts, at: datetime) -> dict[str, Value]:
    """Features 34-39, 42, 46, 59."""
    values: dict[str, Value] = {}
    for w in WINDOWS:
        payments = [payment for payment in facts.payments if payment.event_at >= at - timedelta(days=w)]
        values[f"payment_success_rate_{w}d"] = success_rate(
            [p.status for p in payments], [p.status for p in facts.payments]
        )
        values[f"payment_amount_{w}d"] = net_amount([(p.status, p.amount) for p in payments])
    succeeded = [payment.event_at for payment in facts.payments if payment.status == "succeeded"]
    values["days_since_last_payment"] = days_since(succeeded, at)
    values["total_spend_lifetime"] = net_amount([(p.status, p.amount) for p in facts.payments])
    values["spend_acceleration"] = values["payment_amount_7d"] / 7.0 - values["payment_amount_30d"] / 30.0
    return values


def tutor_features(world: World, facts: Facts, at: datetime) -> dict[str, Value]:
    """Features 50-54."""
    completed = facts.completed
    tutors = [outcome.tutor_id for outcome in completed[-20:]]
    upcoming = facts.next_session
    if completed:
        subject = most_frequent_latest([outcome.subject for outcome in completed])
        tutor_rating = first_mean(
            world.ratings_of_tutor(most_frequent_latest(tutors), at), default=world.settings.neutral_rating
        )
    elif upcoming is not None:
        subject = upcoming["subject"]
        tutor_rating = first_mean(
            world.ratings_of_tutor(upcoming["tutor_id"], at), default=world.settings.neutral_rating
        )
    else:
        subject = None
        tutor_rating = world.settings.neutral_rating
    start = at - timedelta(days=30)
    switches = [
        later
        for earlier, later in pairwise(completed)
        if later.event_at >= start and later.tutor_id != earlier.tutor_id
    ]
    recent = [c.microseconds_waited for c in facts.confirmations if c.event_at >= start]
    waits = recent or [c.microseconds_waited for c in facts.confirmations]
    if waits:
        response_hours = (sum(waits) / 1e6) / len(waits) / 3600.0
    else:
        response_hours = world.settings.neutral_response_hours
    return {
        "primary_subject": SUBJECT_CODE[subject] if subject is not None else -1,
        "tutor_consistency_score": tutor_consistency(tutors),
        "primary_tutor_rating": tutor_rating,
        "tutor_switch_count_30d": len(switches),
        "avg_tutor_response_time_hours": response_hours,
    }


def profile_features(facts: Facts, at: datetime) -> dict[str, Value]:
    """Features 44, 47-49."""
    profile = facts.profile or {}
    return {
        "customer_tenure_days": whole_days(facts.signed_up_at, at),
        "subscription_tier": TIER_CODE.get(profile.get("subscription_tier"), -1),
        "acquisition_channel": CHANNEL_CODE.get(profile.get("acquisition_channel"), -1),
        "grade_level": GRADE_CODE.get(profile.get("grade_level"), -1),
    }


# --- small words, shared with the labels ------------------------------------------------------------------


def first_mean(*samples: list[int], default: float) -> float:
    """The mean of the first sample that holds anything: the exact sum over the exact count."""
    for sample in samples:
        if sample:
            return sum(sample) / len(sample)
    return default


def durations(outcomes: list[Outcome]) -> list[int]:
    """The durations that were observed."""
    return [outcome.duration_minutes for outcome in outcomes if outcome.duration_minutes is not None]


def is_of(rating: Rating, outcome: Outcome) -> bool:
    """Whether this rating is of that session."""
    return rating.session_id == outcome.session_id


def whole_days(since: datetime, at: datetime) -> int:
    """Whole days of 24 hours from `since` to `at`."""
    return (at - since) // DAY


def days_since(moments: list[datetime], at: datetime) -> int:
    """Whole days from the latest of the moments, 999 at most, 999 without any."""
    return min(NEVER, whole_days(max(moments), at)) if moments else NEVER


def success_rate(*samples: list[str]) -> float:
    """succeeded / (succeeded + failed) of the first sample that holds either; 1.0 without any."""
    for statuses in samples:
        succeeded, failed = statuses.count("succeeded"), statuses.count("failed")
        if succeeded + failed:
            return succeeded / (succeeded + failed)
    return 1.0


def net_amount(payments: list[tuple[str, Decimal]]) -> float:
    """Succeeded less refunded amounts, summed in decimal and only then made a double."""
    spent = sum((amount for status, amount in payments if status == "succeeded"), Decimal(0))
    refunded = sum((amount for status, amount in payments if status == "refunded"), Decimal(0))
    return float(spent - refunded)


def most_frequent_latest(values: list[str | None]) -> str | None:
    """The most frequent value; of several, the one that occurs last in the list."""
    counts = Counter(values)
    most = max(counts.values())
    return [value for value in values if counts[value] == most][-1]


def tutor_consistency(tutors: list[str | None]) -> float:
    """The share of the most frequent tutor; 0 without sessions."""
    return max(Counter(tutors).values()) / len(tutors) if tutors else 0.0
