"""The figures that the models are expected to reach (reference-figures.md), typed here only.

The file that they come from does not say for which population or split they were measured.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A range of one figure."""

    figure: str
    low: float
    high: float


REFERENCES: dict[str, Reference] = {
    "churn_risk_14d": Reference("auc", 0.85, 0.92),
    "churn_risk_30d": Reference("auc", 0.85, 0.92),
    "health_score": Reference("mae", 8.0, 12.0),
    "session_velocity": Reference("mae", 0.20, 0.30),
    "first_session_success": Reference("accuracy", 0.80, 0.85),
}
