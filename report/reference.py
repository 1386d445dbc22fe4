"""The figures of the training-data summary that this system reproduces, typed here only.

Shares and rates are fractions, sessions are a week. The models' expected quality is in `training.reference`.
None of it says on which population it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simulator.writer import NOTE

SEGMENTS = ("thriving", "healthy", "at_risk", "churned")


def applies_to(raw_dir: Path) -> bool:
    """Whether the data of this raw directory are meant to be like the reference: those that were simulated.

    What is printed in short leaves the reference out beside any others. The report, which is there to show
    it, keeps it, says so at its top, and gives no verdicts.
    """
    return (raw_dir / NOTE).exists()


SEGMENT_SHARES: Mapping[str, float] = dict(zip(SEGMENTS, (0.293, 0.400, 0.205, 0.103), strict=True))

LABELS: Mapping[str, float] = {
    "label_first_session_success": 0.675,
    "label_churn_risk_14d": 0.103,
    "label_churn_risk_30d": 0.307,
    "label_health_score": 66.2,
    "label_session_velocity": 1.44,
}

EXPORTED_RECORDS: Mapping[str, int] = {
    "train.jsonl": 7_000,
    "validation.jsonl": 1_500,
    "test.jsonl": 1_500,
    "train.csv": 7_000,
    "full_dataset.jsonl": 10_000,
}


@dataclass(frozen=True)
class SegmentFigure:
    """A column of features or labels, and what it typically is in each of SEGMENTS."""

    column: str
    title: str
    kind: str
    """``share``, ``count`` (whole numbers) or ``number``."""
    expected: tuple[float, float, float, float]


SEGMENT_FIGURES = (
    SegmentFigure("session_frequency_30d", "sessions a week", "number", (2.94, 1.19, 0.16, 0.00)),
    SegmentFigure("avg_rating_30d", "average rating", "number", (4.29, 4.25, 3.97, 3.01)),
    SegmentFigure("ib_call_count_14d", "inbound calls, 14 days", "count", (0, 1, 1, 2)),
    SegmentFigure("days_since_last_session", "days since last session", "count", (4, 6, 19, 40)),
    SegmentFigure("payment_success_rate_30d", "payment success", "share", (0.999, 0.906, 0.859, 0.576)),
    SegmentFigure("tutor_consistency_score", "tutor consistency", "share", (0.950, 0.791, 0.576, 0.177)),
    SegmentFigure("label_churn_risk_30d", "churn within 30 days", "share", (0.08, 0.20, 0.65, 0.95)),
    SegmentFigure("label_health_score", "health score", "count", (94, 63, 53, 6)),
)


@dataclass(frozen=True)
class Band:
    """A band of a feature's values: those that meet `condition`, the second half of an SQL comparison."""

    title: str
    condition: str
    expected: float | None
    """The expected share, where the reference has a number."""
    words: str
    """What the reference says."""


@dataclass(frozen=True)
class Banded:
    """A share (the mean of a 0/1 label) by bands of one feature, among the rows that meet `where`.

    The rows that do not are a group of their own, called `elsewhere`: there the feature is a placeholder.
    """

    name: str
    title: str
    feature: str
    label: str
    bands: tuple[Band, ...]
    where: str = "true"
    elsewhere: str = ""


_CHURN = "label_churn_risk_30d"
_HAD_A_SESSION = "total_sessions_lifetime > 0"

INBOUND_CALLS = Banded(
    "inbound-calls",
    "inbound calls in 14 days",
    "ib_call_count_14d",
    _CHURN,
    (
        Band("0 calls", "= 0", 0.08, "8 %"),
        Band("1 call", "= 1", 0.20, "20 %"),
        Band("2 or more", ">= 2", 0.65, "65 % and up"),
    ),
)

CHURN_BY = (
    INBOUND_CALLS,
    Banded(
        "days-since-last-session",
        "days since last session",
        "days_since_last_session",
        _CHURN,
        (
            Band("under 5", "< 5", None, "low"),
            Band("5 to 15", "between 5 and 15", None, "medium"),
            Band("16 to 25", "between 16 and 25", None, "high"),
            Band("over 25", "> 25", None, "critical"),
        ),
        where=_HAD_A_SESSION,
        elsewhere="no session yet",
    ),
    # The reference names three points; a band reaches half-way to the next.
    Banded(
        "velocity-change",
        "velocity change",
        "session_velocity_change",
        _CHURN,
        (
            Band("rising, over +25 %", "> 0.25", None, "not given"),
            Band("stable, −25 to +25 %", "between -0.25 and 0.25", None, "low"),
            Band("about −50 %", "> -0.65 and session_velocity_change < -0.25", None, "medium"),
            Band("about −80 %, −65 % or less", "<= -0.65", None, "high"),
        ),
        where="session_frequency_30d > 0",
        elsewhere="no session in 30 days",
    ),
    Banded(
        "tutor-consistency",
        "tutor consistency",
        "tutor_consistency_score",
        _CHURN,
        (
            Band("over 80 %", "> 0.8", None, "low"),
            Band("60 to 80 %", "between 0.6 and 0.8", None, "medium"),
            Band("under 60 %", "< 0.6", None, "high"),
        ),
        where=_HAD_A_SESSION,
        elsewhere="no session yet",
    ),
    Banded(
        "payment-success",
        "payment success in 30 days",
        "payment_success_rate_30d",
        _CHURN,
        (
            Band("over 95 %", "> 0.95", None, "stable"),
            Band("85 to 95 %", "between 0.85 and 0.95", None, "some issues"),
            Band("under 85 %", "< 0.85", None, "financial stress"),
        ),
    ),
)

FIRST_SESSION = Banded(
    "tutor-rating",
    "rating of the tutor",
    "primary_tutor_rating",
    "label_first_session_success",
    (
        Band("over 4.5", "> 4.5", 0.85, "85 %"),
        Band("4.0 to 4.5", "between 4.0 and 4.5", 0.68, "68 %"),
        Band("under 4.0", "< 4.0", 0.45, "45 %"),
    ),
)


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of two columns; `where` leaves out the rows in which one of them is a placeholder."""

    left: str
    right: str
    expected: float
    where: str = "true"


CORRELATIONS = (
    Correlation("ib_call_count_14d", _CHURN, 0.7),
    Correlation("session_frequency_7d", "label_health_score", 0.8),
    Correlation("days_since_last_session", _CHURN, 0.6, where=_HAD_A_SESSION),
    Correlation("tutor_consistency_score", "avg_rating_30d", 0.5, where=_HAD_A_SESSION),
)

IMPORTANT_FEATURES = (
    "ib_call_count_14d",
    "days_since_last_session",
    "session_velocity_change",
    "payment_success_rate_30d",
    "tutor_consistency_score",
    "avg_rating_7d",
    "session_frequency_7d",
    "cancellation_rate_30d",
    "negative_calls_14d",
    "engagement_trend",
)
