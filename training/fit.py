"""Fitting one model: a pure function of its examples, specification and seed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import lightgbm
import numpy as np

from scoring.release import ReleasedModel
from training.calibration import fit_calibration
from training.dataset import Examples
from training.models import NOT_YET_LAPSED, ModelSpec
from training.split import CHOOSE, FIT

MOST_TREES = 500
STOP_AFTER = 30

# Moderate trees: rows of one customer are correlated, so a leaf needs many of them to be more than one
# customer.
_PARAMETERS: Mapping[str, object] = {
    "learning_rate": 0.05,
    "num_leaves": 23,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 127,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
_THREADS_IN_TEXT = re.compile(r"^\[num_threads: \d+\]$", re.MULTILINE)


@dataclass(frozen=True)
class Tuning:
    """What a person may choose otherwise: LightGBM parameters that come before the standard ones and those of
    the model, the most trees, and after how many trees without improvement to stop.
    """

    parameters: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    most_trees: int = MOST_TREES
    stop_after: int = STOP_AFTER


_STANDARD = Tuning()


@dataclass(frozen=True)
class Learned:
    """What fitting gives: the model, its predictions for every example (float64 (rows,)), and a log of the
    fit.
    """

    model: ReleasedModel
    scored: np.ndarray
    log: Mapping[str, Any]


def learn(
    spec: ModelSpec,
    examples: Examples,
    categorical: Sequence[str],
    seed: int,
    model_version: str,
    threads: int | None = None,
    tuning: Tuning = _STANDARD,
) -> Learned:
    """Fit on the fit block, stop and calibrate on the choose block, score every block.

    Early stopping watches the primary figure on the choose block's primary population; calibration uses the
    same rows. `categorical` names the features that are codes; LightGBM reads their -1 as missing, at
    training and at scoring alike. Equal arguments give an equal model, whatever `threads` (default:
    OpenMP's, one a core).
    """
    fitting = examples.of(FIT)
    choosing = examples.of(CHOOSE)
    if spec.primary_population == NOT_YET_LAPSED:
        choosing = choosing.take(choosing.not_yet_lapsed)
    parameters = {
        "objective": "binary",
        "metric": "binary_logloss" if spec.kind == "probability" else "l1",
        **_PARAMETERS,
        **spec.lightgbm,
        **tuning.parameters,
        "seed": seed,
        "num_threads": threads or 0,  # 0: what OpenMP would take, so OMP_NUM_THREADS counts
    }
    codes = [name for name in examples.columns if name in set(categorical)]
    to_fit = lightgbm.Dataset(
        _codes_or_missing(fitting.features, examples.columns, codes),
        fitting.labels,
        feature_name=list(examples.columns),
        categorical_feature=codes,
        params=parameters,
    )
    to_choose = to_fit.create_valid(
        _codes_or_missing(choosing.features, examples.columns, codes), choosing.labels, params=parameters
    )
    booster = lightgbm.train(
        parameters,
        to_fit,
        num_boost_round=tuning.most_trees,
        valid_sets=[to_choose],
        callbacks=[lightgbm.early_stopping(tuning.stop_after, verbose=False)],
    )
    # The number of threads changes nothing in the trees, so it must not make two equal models differ as text.
    text = _THREADS_IN_TEXT.sub(
        "[num_threads: 0]", booster.model_to_string(num_iteration=booster.best_iteration)
    )
    model = ReleasedModel(
        name=spec.name,
        feature_service=spec.feature_service,
        features=examples.columns,
        booster_text=text,
        calibration=None,
        lower=spec.lower,
        upper=spec.upper,
        held_out={},
        origin_version=model_version,
    )
    if spec.kind == "probability":
        calibration = fit_calibration(choosing.labels, model.predict(choosing.features))
        model = replace(model, calibration=calibration)
    log = {
        "trees": booster.best_iteration,
        "parameters": {name: value for name, value in parameters.items() if name != "num_threads"},
        "fit_rows": len(fitting),
        "choose_rows": len(choosing),
        "choose_figure": float(booster.best_score["valid_0"][str(parameters["metric"])]),
        "calibration": None
        if model.calibration is None
        else {"slope": model.calibration.slope, "intercept": model.calibration.intercept},
        "importance": importance(model),
    }
    return Learned(model=model, scored=model.predict(examples.features), log=log)


def importance(model: ReleasedModel) -> dict[str, float]:
    """Share of the trees' total gain that each feature brought, largest first, features without gain left
    out.
    """
    gains = model.booster.feature_importance("gain")
    total = gains.sum()
    ranked = sorted(zip(model.features, gains, strict=True), key=lambda pair: -pair[1])
    return {name: float(gain / total) for name, gain in ranked if gain > 0}


def _codes_or_missing(features: np.ndarray, columns: Sequence[str], codes: Sequence[str]) -> np.ndarray:
    # LightGBM takes negative codes for missing anyway, with a warning a data set; saying so ourselves is
    # quieter.
    features = features.copy()
    for name in codes:
        column = features[:, columns.index(name)]
        column[column < 0] = np.nan
    return features
