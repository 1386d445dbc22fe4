"""What one would guess without a model, and the best that anyone could do."""

import numpy as np
from sklearn.isotonic import IsotonicRegression

from training.dataset import Examples
from training.models import Baseline

# An isotonic curve reaches 0 and 1 on its fit block; one surprise there would make the log loss infinite.
_MARGIN = 0.005


def guess(baseline: Baseline, fitting: Examples, reporting: Examples) -> np.ndarray:
    """The baseline's predictions for `reporting`, float64 (rows,); it learns from `fitting` only."""
    known = reporting.column(baseline.source)
    if baseline.kind == "value":
        return known
    curve = IsotonicRegression(y_min=_MARGIN, y_max=1.0 - _MARGIN, increasing=True, out_of_bounds="clip")
    return curve.fit(fitting.column(baseline.source), fitting.labels).predict(known)
