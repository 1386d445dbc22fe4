"""Figures of models on held-out rows, for everyone in scope and for those not yet lapsed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scoring.release import ReleasedModel, in_order
from training.baselines import guess
from training.dataset import Examples
from training.metrics import Figures, amount_figures, probability_figures
from training.models import EVERYONE, NOT_YET_LAPSED, ModelSpec
from training.reference import REFERENCES
from training.split import BLOCK_NAMES, FIT, REPORT, Block, Blocks


def figures_by_population(spec: ModelSpec, examples: Examples, predictions: np.ndarray) -> dict[str, Figures]:
    """{population: figures} of predictions, float64 (rows,), for the rows of `examples`.

    A first-session model has one population: none of its customers ever had a session that could lapse.
    """
    populations = {EVERYONE: np.ones(len(examples), dtype=bool)}
    if not spec.only_before_first_session:
        populations[NOT_YET_LAPSED] = examples.not_yet_lapsed
    figures = probability_figures if spec.kind == "probability" else amount_figures
    return {name: figures(examples.labels[rows], predictions[rows]) for name, rows in populations.items()}


def primary(spec: ModelSpec, figures: Mapping[str, Figures]) -> float:
    """The one figure that decides between two versions of a model."""
    return float(figures[spec.primary_population][spec.primary_figure])


def predict_in_order(model: ReleasedModel, examples: Examples, longer: ReleasedModel | None) -> np.ndarray:
    """The predictions as they are published: churn within 14 days kept below that within 30 (`longer`)."""
    predictions = predict_by_name(model, examples)
    if model.name != "churn_risk_14d" or longer is None:
        return predictions
    beside = {"churn_risk_14d": predictions, "churn_risk_30d": predict_by_name(longer, examples)}
    return in_order(beside)["churn_risk_14d"]


def predict_by_name(model: ReleasedModel, examples: Examples) -> np.ndarray:
    """Predictions float64 (rows,), features picked by name. Raises KeyError when one is missing."""
    missing = [name for name in model.features if name not in examples.columns]
    if missing:
        raise KeyError(", ".join(missing))
    return model.predict(examples.features[:, [examples.columns.index(name) for name in model.features]])


def held_out_report(
    spec: ModelSpec,
    blocks: Blocks | None,
    examples: Examples,
    predictions: np.ndarray,
    truth: np.ndarray | None,
) -> dict[str, Any]:
    """All that is said of a model's held-out quality, as plain JSON values.

    `blocks` are the blocks' times, None where they are divided by customer alone. `examples` are all of the
    model's; `predictions` and `truth` (None: no simulator) are for its report block. Keys: one a population
    with its figures; `baseline` and `best_possible`, the same of the naive guess and of the true
    probabilities (None: not known here); `reference`; `primary`; `rows` and `blocks`, which say on what.
    """
    reporting = examples.of(REPORT)
    figures = figures_by_population(spec, reporting, predictions)
    reference = REFERENCES[spec.name]
    return {
        **figures,
        "primary": {
            "figure": spec.primary_figure,
            "population": spec.primary_population,
            "value": primary(spec, figures),
        },
        "baseline": _baseline(spec, examples) if examples.knows(spec.baseline.source) else None,
        "best_possible": None if truth is None else _best_possible(spec, reporting, truth),
        "reference": {"figure": reference.figure, "low": reference.low, "high": reference.high},
        "blocks": {
            name: {
                **({} if blocks is None else _period(getattr(blocks, name))),
                "rows": int((examples.block == code).sum()),
                "customers": len(np.unique(examples.customer_ids[examples.block == code])),
            }
            for code, name in BLOCK_NAMES.items()
        },
    }


def _baseline(spec: ModelSpec, examples: Examples) -> dict[str, Any]:
    reporting = examples.of(REPORT)
    guessed = guess(spec.baseline, examples.of(FIT), reporting)
    return {"described": spec.baseline.described, **figures_by_population(spec, reporting, guessed)}


def _period(block: Block) -> dict[str, str]:
    return {"first_snapshot": str(block.first), "last_snapshot": str(block.last)}


def _best_possible(spec: ModelSpec, reporting: Examples, truth: np.ndarray) -> dict[str, Figures]:
    known = ~np.isnan(truth)
    return figures_by_population(spec, reporting.take(known), truth[known])
