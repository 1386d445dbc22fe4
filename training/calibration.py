"""Fitting the two numbers of a logistic calibration."""

import numpy as np

from scoring.release import Calibration

_EDGE = 1e-12
_STEPS = 50
# A calibration that turned the order of customers round would hide a broken model; it may only flatten it.
_LEAST_SLOPE = 0.05
# Weight of the prior belief that the slope is 1, in observations of unit information: it decides only where
# the data cannot (all probabilities equal, or classes that do not overlap).
_PRIOR = 1.0


def fit_calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """The slope and intercept on the log-odds of `probabilities` that best explain 0/1 `labels`, both
    (rows,).

    Maximum likelihood by Newton's method (Platt's scaling, on log-odds), with a weak pull of the slope
    towards 1. The slope is always positive. Raises ValueError when labels hold one class only.
    """
    if not 0 < labels.sum() < len(labels):
        raise ValueError("Calibration needs both outcomes among its rows.")
    clipped = np.clip(probabilities, _EDGE, 1.0 - _EDGE)
    log_odds = np.log(clipped / (1.0 - clipped))
    slope, intercept = _newton(labels, log_odds)
    if slope < _LEAST_SLOPE:
        slope, intercept = _newton(labels, log_odds, fixed_slope=_LEAST_SLOPE)
    return Calibration(slope=float(slope), intercept=float(intercept))


def _newton(
    labels: np.ndarray, log_odds: np.ndarray, fixed_slope: float | None = None
) -> tuple[float, float]:
    slope, intercept = (1.0 if fixed_slope is None else fixed_slope), 0.0
    loss = _loss(labels, log_odds, slope, intercept)
    for _ in range(_STEPS):
        expected = 1.0 / (1.0 + np.exp(-(slope * log_odds + intercept)))
        residual = expected - labels
        information = expected * (1.0 - expected)
        gradient = np.array([residual @ log_odds + _PRIOR * (slope - 1.0), residual.sum()])
        curvature = np.array(
            [
                [information @ log_odds**2 + _PRIOR, information @ log_odds],
                [information @ log_odds, information.sum() + 1e-9],
            ]
        )
        if fixed_slope is None:
            step = np.linalg.solve(curvature, gradient)
        else:
            step = np.array([0.0, gradient[1] / curvature[1, 1]])
        # Newton may overshoot far from the optimum: halve the step until the loss does not rise.
        for _ in range(_STEPS):
            tried = _loss(labels, log_odds, slope - step[0], intercept - step[1])
            if tried <= loss:
                break
            step /= 2.0
        else:
            break
        slope, intercept, previous, loss = slope - step[0], intercept - step[1], loss, tried
        if previous - loss <= 1e-12 * max(1.0, previous):
            break
    return slope, intercept


def _loss(labels: np.ndarray, log_odds: np.ndarray, slope: float, intercept: float) -> float:
    margin = slope * log_odds + intercept
    # log(1 + exp(m)) - y m, written so that neither end overflows.
    return float((np.logaddexp(0.0, margin) - labels * margin).sum() + _PRIOR * (slope - 1.0) ** 2 / 2.0)
