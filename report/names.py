"""What things are called on the page, and the sentence where there is no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from report import reference
from report.document import number
from training.metrics import PROBABILITY_FIGURES
from training.models import EVERYONE, NOT_YET_LAPSED

NO_MODEL = (
    "No model was ever trained for this warehouse, so predictions and model quality are missing here: `make "
    "run` trains and scores, then `make report` shows them."
)
POPULATION_NAMES = {EVERYONE: "everyone", NOT_YET_LAPSED: "not yet lapsed"}
MODEL_TITLES = {
    "churn_risk_14d": "churn within 14 days",
    "churn_risk_30d": "churn within 30 days",
    "health_score": "health score",
    "session_velocity": "session velocity",
    "first_session_success": "first-session success",
}
MODEL_UNITS = {"health_score": "points", "session_velocity": "sessions a week"}
LABEL_TITLES = {
    "label_first_session_success": "first-session success",
    "label_churn_risk_14d": "high churn risk, 14 days",
    "label_churn_risk_30d": "high churn risk, 30 days",
    "label_health_score": "average health score",
    "label_session_velocity": "average session velocity, a week",
}
SEGMENT_TITLES = {name: name.replace("_", "-") for name in reference.SEGMENTS}
FIGURE_TITLES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier": "Brier",
    "calibration_error": "calibration error",
    "accuracy": "accuracy",
    "mae": "MAE",
    "rmse": "RMSE",
    "mean_label": "happened",
    "mean_prediction": "predicted",
}
SHOWN_FIGURES = {
    "probability": PROBABILITY_FIGURES,
    "amount": ("mae", "rmse", "mean_label", "mean_prediction"),
}


def held_out_figure(source: Mapping[str, Any] | None, population: str, name: str, digits: int = 3) -> str:
    """A figure of a held-out report (scoring.release) as text; – where it has none."""
    return number(((source or {}).get(population) or {}).get(name), digits)
