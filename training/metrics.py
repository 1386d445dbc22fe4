"""Figures of one set of predictions. A figure that the rows cannot give (one class only, no rows) is None."""

from collections.abc import Mapping

import numpy as np
from sklearn import metrics as sklearn_metrics

Figures = dict[str, float | int | None]

# For which figures more is better; of all others, less is.
MORE_IS_BETTER = frozenset({"auc", "average_precision", "accuracy"})

_EDGE = 1e-15


def probability_figures(labels: np.ndarray, probabilities: np.ndarray) -> Figures:
    """Figures of predicted probabilities against 0/1 labels, both float64 (rows,).

    auc, average_precision, log_loss (nats), brier, calibration_error (see there), accuracy at 0.5, mean_label
    and mean_prediction.
    """
    rows = len(labels)
    if not rows:
        return {"rows": 0, **dict.fromkeys(PROBABILITY_FIGURES)}
    clipped = np.clip(probabilities, _EDGE, 1.0 - _EDGE)
    two_classes = 0 < labels.sum() < rows
    return {
        "rows": rows,
        "auc": float(sklearn_metrics.roc_auc_score(labels, probabilities)) if two_classes else None,
        "average_precision": float(sklearn_metrics.average_precision_score(labels, probabilities))
        if two_classes
        else None,
        "log_loss": float(-np.mean(labels * np.log(clipped) + (1.0 - labels) * np.log1p(-clipped))),
        "brier": float(np.mean((probabilities - labels) ** 2)),
        "calibration_error": calibration_error(labels, probabilities),
        "accuracy": float(np.mean((probabilities >= 0.5) == (labels == 1.0))),
        "mean_label": float(labels.mean()),
        "mean_prediction": float(probabilities.mean()),
    }


PROBABILITY_FIGURES = (
    "auc",
    "average_precision",
    "log_loss",
    "brier",
    "calibration_error",
    "accuracy",
    "mean_label",
    "mean_prediction",
)


def amount_figures(labels: np.ndarray, predictions: np.ndarray) -> Figures:
    """Figures of predicted amounts, both float64 (rows,): mae and rmse in the label's unit, mean_label,
    mean_prediction.
    """
    rows = len(labels)
    if not rows:
        return {"rows": 0, "mae": None, "rmse": None, "mean_label": None, "mean_prediction": None}
    errors = predictions - labels
    return {
        "rows": rows,
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "mean_label": float(labels.mean()),
        "mean_prediction": float(predictions.mean()),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: rows sorted by probability into `bins` groups of equal count; the mean
    distance between a group's mean probability and its share of ones, weighted by its rows.

    Groups of equal count, because equal widths would leave most groups of a rare event nearly empty. Rows of
    equal probability may fall into two groups; a stable sort makes that repeatable.
    """
    order = np.argsort(probabilities, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    distances = [abs(probabilities[group].mean() - labels[group].mean()) * len(group) for group in groups]
    return float(sum(distances) / len(order))


def not_worse(figure: str, challenger: float, incumbent: float) -> bool:
    """Whether the challenger is at least as good as the incumbent by this figure; equal is not worse."""
    return challenger >= incumbent if figure in MORE_IS_BETTER else challenger <= incumbent


def flatten(figures: Mapping[str, Figures]) -> dict[str, float]:
    """{'everyone': {'auc': 0.9}} as {'everyone.auc': 0.9}, without the figures that are None."""
    return {
        f"{population}.{name}": float(value)
        for population, named in figures.items()
        for name, value in named.items()
        if value is not None
    }
