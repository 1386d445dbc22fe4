"""The data contract of the seven raw tables, typed from raw-tables.md and features.md (never read from
dbt).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)

#: table -> column -> type, in the order of the contract
COLUMNS: dict[str, dict[str, str]] = {
    "raw_customers": {
        "customer_id": "text",
        "signed_up_at": "timestamp",
        "subscription_tier": "text",
        "acquisition_channel": "text",
        "grade_level": "text",
        "updated_at": "timestamp",
        "loaded_at": "timestamp",
    },
    "raw_tutors": {
        "tutor_id": "text",
        "joined_at": "timestamp",
        "subjects": "text",
        "updated_at": "timestamp",
        "loaded_at": "timestamp",
    },
    "raw_sessions": {
        "session_id": "text",
        "customer_id": "text",
        "tutor_id": "text",
        "subject": "text",
        "booked_at": "timestamp",
        "confirmed_at": "timestamp",
        "scheduled_at": "timestamp",
        "status": "text",
        "resolved_at": "timestamp",
        "duration_minutes": "integer",
        "rating": "integer",
        "rated_at": "timestamp",
        "updated_at": "timestamp",
        "loaded_at": "timestamp",
    },
    "raw_calls": {
        "call_id": "text",
        "customer_id": "text",
        "called_at": "timestamp",
        "direction": "text",
        "duration_seconds": "integer",
        "reason": "text",
        "sentiment_score": "double",
        "escalated": "boolean",
        "loaded_at": "timestamp",
    },
    "raw_payments": {
        "payment_id": "text",
        "customer_id": "text",
        "attempted_at": "timestamp",
        "amount": "decimal",
        "currency": "text",
        "status": "text",
        "updated_at": "timestamp",
        "loaded_at": "timestamp",
    },
    "raw_app_events": {
        "event_id": "text",
        "customer_id": "text",
        "occurred_at": "timestamp",
        "event_type": "text",
        "loaded_at": "timestamp",
    },
    "raw_tutor_availability": {
        "tutor_id": "text",
        "subject": "text",
        "week_start": "date",
        "available_hours": "double",
        "loaded_at": "timestamp",
    },
}

PRIMARY_KEY: dict[str, tuple[str, ...]] = {
    "raw_customers": ("customer_id",),
    "raw_tutors": ("tutor_id",),
    "raw_sessions": ("session_id",),
    "raw_calls": ("call_id",),
    "raw_payments": ("payment_id",),
    "raw_app_events": ("event_id",),
    "raw_tutor_availability": ("tutor_id", "subject", "week_start"),
}

SUBJECTS: list[str] = [
    "algebra_1",
    "algebra_2",
    "geometry",
    "precalculus",
    "ap_calculus",
    "ap_physics",
    "ap_chemistry",
    "ap_biology",
    "spanish",
    "french",
    "english",
    "history",
    "sat_prep",
    "act_prep",
    "ap_statistics",
    "computer_science",
    "economics",
    "psychology",
    "elementary_math",
    "middle_school_science",
]
SUBJECT_CODE = {name: code for code, name in enumerate(SUBJECTS)}
TIER_CODE = {"budget": 0, "standard": 1, "premium": 2}
CHANNEL_CODE = {"organic": 0, "paid_google": 1, "paid_facebook": 2, "referral": 3}
GRADE_CODE = {"elementary": 0, "middle_school": 1, "high_school": 2, "college": 3}

SESSION_STATUSES = ["scheduled", "completed", "cancelled_by_customer", "cancelled_by_tutor", "no_show"]
PAYMENT_STATUSES = ["succeeded", "failed", "refunded", "pending"]
CALL_DIRECTIONS = ["inbound", "outbound"]
CALL_REASONS = ["billing", "scheduling", "tutor_quality", "technical", "other"]
EVENT_TYPES = ["login", "message_sent"]


@dataclass(frozen=True)
class Settings:
    """The dbt vars, with the defaults of the spec."""

    arrival_grace: timedelta = timedelta(hours=6)
    neutral_rating: float = 4.0
    neutral_response_hours: float = 4.0
    negative_sentiment: float = -0.3
    success_rating: int = 4
    in_scope: timedelta = timedelta(days=90)
    lapse: timedelta = timedelta(days=30)


DEFAULTS = Settings()
