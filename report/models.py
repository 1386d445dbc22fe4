"""The released models on rows that none of them has learned from: the training's own held-out rows.

They are made again from the warehouse by the training's own code and by the split that the release was
trained by, so the released figures can be computed a second time and must come out equal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from sklearn.metrics import precision_recall_curve

from feature_repo.catalog import load_catalog
from scoring.release import Release, ReleasedModel, read_champion
from training.baselines import guess
from training.dataset import (
    Examples,
    LabelledSnapshots,
    Plan,
    Retrieve,
    plan,
    read_labelled_snapshots,
    read_truth,
    retrieve_examples,
)
from training.errors import TrainingError
from training.evaluation import figures_by_population, predict_by_name, predict_in_order
from training.fit import importance
from training.metrics import probability_figures
from training.models import EVERYONE, NOT_YET_LAPSED, SPECS, ModelSpec
from training.periods import CustomerPeriods, released_periods
from training.split import FIT, REPORT, customer_groups

log = logging.getLogger(__name__)

MODEL, BASELINE, BEST = "model", "naive baseline", "best possible"
CHURN = "churn_risk_30d"
EXPLAINED_ROWS = 4_000
_POINTS = 100
_GROUPS = 10
# Fewer rows than this say nothing about a group of customers.
LEAST_GROUP = 100


@dataclass(frozen=True)
class HeldOut:
    """One model's held-out rows: labels and predictions float64 (rows,), by MODEL, BASELINE, BEST.

    BEST (the simulator's true probabilities) is NaN where the truth has no row, and absent without a truth.
    `verified` says whether the released figures came out again; `differing` names those that did not.
    """

    spec: ModelSpec
    plan: Plan
    released: Mapping[str, Any]
    examples: Examples
    predictions: Mapping[str, np.ndarray]
    verified: int
    differing: tuple[str, ...]

    def population(self, name: str) -> np.ndarray:
        """Mask of a population's rows, bool (rows,)."""
        if name == NOT_YET_LAPSED:
            return self.examples.not_yet_lapsed
        return np.ones(len(self.examples), dtype=bool)

    @property
    def populations(self) -> tuple[str, ...]:
        """The populations that are reported of this model."""
        return (EVERYONE,) if self.spec.only_before_first_session else (EVERYONE, NOT_YET_LAPSED)


@dataclass(frozen=True)
class Judged:
    """A release, the held-out rows of its models by name, and why others have none."""

    release: Release
    models: Mapping[str, HeldOut]
    missing: Mapping[str, str] = field(default_factory=dict)
    labelled: LabelledSnapshots | None = None
    retrieve: Retrieve | None = None
    periods: CustomerPeriods | None = None

    def unseen(self, spec: ModelSpec) -> np.ndarray:
        """Which labelled rows are of customers whom no model has learned from, bool (rows,).

        By a split of one's own those alone whose label ends with the customer's period: beyond, everybody
        has left and nothing is to be told.
        """
        labelled = self.labelled
        groups = (
            customer_groups(labelled.hashes)
            if self.periods is None
            else self.periods.assign(labelled.hashes, labelled.snapshots, spec.label_days)
        )
        return (groups == REPORT) & ~np.isnan(labelled.values[spec.label])


def judge(
    warehouse: duckdb.DuckDBPyConnection,
    release: Release,
    raw_dir: Path,
    periods: CustomerPeriods | None = None,
) -> Judged:
    """Make the held-out rows of every model of the release and predict them.

    `periods` is the split that the release was trained by (training.periods.released_periods).
    """
    specs = [spec for spec in SPECS if spec.name in release.models]
    retrieve = features_of(warehouse)
    try:
        labelled = read_labelled_snapshots(warehouse, specs, release.data_as_of)
    except TrainingError as error:
        return Judged(release, {}, {spec.name: str(error) for spec in specs})
    plans: dict[str, Plan] = {}
    missing = {}
    for spec in specs:
        try:
            planned = plan(labelled, spec, periods)
            plans[spec.name] = _as_released(labelled, planned, release.models[spec.name].held_out)
        except TrainingError as error:
            missing[spec.name] = str(error)
    examples = retrieve_examples(labelled, list(plans.values()), retrieve)
    judged = {name: _judge_one(release, each, examples[name], raw_dir) for name, each in plans.items()}
    return Judged(release, judged, missing, labelled, retrieve, periods)


def judge_champion(warehouse: duckdb.DuckDBPyConnection, models_dir: Path, raw_dir: Path) -> Judged | None:
    """`judge` for the champion; None when no model was ever trained. Raises ReleaseError."""
    release = read_champion(models_dir)
    if release is None:
        return None
    return judge(warehouse, release, raw_dir, released_periods(release, models_dir))


def _as_released(labelled: LabelledSnapshots, planned: Plan, held_out: Mapping[str, Any]) -> Plan:
    """The plan without the held-out weeks that the release did not count.

    Models that were trained elsewhere and published here are judged on the weeks after their training only.
    """
    released = (held_out.get("blocks") or {}).get("report")
    if released is None:
        return planned
    first = np.datetime64(released["first_snapshot"], "D")
    report = planned.blocks.report
    if first <= report.first:
        return planned
    days = labelled.snapshots[planned.rows].astype("datetime64[D]")
    kept = (planned.block != REPORT) | (days >= first)
    blocks = replace(planned.blocks, report=replace(report, first=first))
    return replace(planned, blocks=blocks, rows=planned.rows[kept], block=planned.block[kept])


def features_of(warehouse: duckdb.DuckDBPyConnection) -> Retrieve:
    """Features by entity row straight from the warehouse, for training's `retrieve_examples`.

    Feast gives the same bits (`python -m feature_repo check`), but needs a registry of its own.
    """
    catalog = load_catalog()

    def retrieve(entity_rows: pa.Table, service: str) -> pa.Table:
        numbered = entity_rows.append_column("row", pa.array(np.arange(entity_rows.num_rows)))
        names = ", ".join(f"features.{name}" for name in catalog.service(service))
        warehouse.register("entity_rows", numbered)
        try:
            return warehouse.sql(
                f"""
                select {names}
                from entity_rows
                left join features.customer_features as features
                    on
                        entity_rows.customer_id = features.customer_id
                        and entity_rows.event_timestamp = features.feature_timestamp
                order by entity_rows.row
                """
            ).to_arrow_table()
        finally:
            warehouse.unregister("entity_rows")

    return retrieve


def _judge_one(release: Release, planned: Plan, examples: Examples, raw_dir: Path) -> HeldOut:
    spec = planned.spec
    model = release.models[spec.name]
    reporting = examples.of(REPORT)
    predictions = {
        MODEL: predict_in_order(model, reporting, release.models.get(CHURN)),
        BASELINE: guess(spec.baseline, examples.of(FIT), reporting),
    }
    truth = None
    if spec.name.startswith("churn_risk"):
        found = read_truth(raw_dir, reporting.customer_ids, reporting.snapshots, [spec.name])
        truth = None if found is None else found[:, 0]
    if truth is not None and not np.isnan(truth).all():
        predictions[BEST] = truth
    again = {
        **figures_by_population(spec, reporting, predictions[MODEL]),
        "baseline": figures_by_population(spec, reporting, predictions[BASELINE]),
    }
    if BEST in predictions:
        known = ~np.isnan(predictions[BEST])
        again["best_possible"] = figures_by_population(spec, reporting.take(known), predictions[BEST][known])
    verified, differing = _compare(model.held_out, again)
    if differing:
        log.warning("%s: released figures that did not come out again: %s", spec.name, ", ".join(differing))
    return HeldOut(spec, planned, model.held_out, reporting, predictions, verified, differing)


def _compare(released: Mapping[str, Any], again: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """How many released figures came out equal, and the names of those that did not.

    Without the simulator's truth on either side there is nothing to compare for the best possible.
    """
    expected = _flat({name: released.get(name) or {} for name in again})
    computed = _flat(again)
    differing = [name for name, value in expected.items() if not _equal(value, computed.get(name))]
    return len(expected) - len(differing), tuple(differing)


def _equal(left: float | None, right: float | None) -> bool:
    if left is None or right is None:
        return left is right
    return isclose(left, right, rel_tol=1e-9)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, (int, float)):
            flat[f"{prefix}{name}"] = value
    return flat


@dataclass(frozen=True)
class Curve:
    """Points of one line: x and y float64 (points,)."""

    by: str
    x: np.ndarray
    y: np.ndarray


def precision_recall(held_out: HeldOut, population: str) -> list[Curve]:
    """Precision by recall, at most _POINTS points a line; no line where there is one outcome only."""
    curves = []
    for by, labels, predictions in _lines(held_out, population):
        precision, recall, _ = precision_recall_curve(labels, predictions)
        # The curve runs from recall 1 down to 0; its steps are thinned to equal distances of recall.
        wanted = np.unique(np.searchsorted(-recall, -np.linspace(1, 0, _POINTS), side="left"))
        kept = np.clip(wanted, 0, len(recall) - 1)
        curves.append(Curve(by, recall[kept], precision[kept]))
    return curves


def calibration(held_out: HeldOut, population: str) -> list[Curve]:
    """Share of ones by mean prediction, in ten groups of equal count (as the calibration error is)."""
    curves = []
    for by, labels, predictions in _lines(held_out, population):
        groups = _equal_groups(predictions)
        curves.append(
            Curve(
                by,
                np.array([predictions[group].mean() for group in groups]),
                np.array([labels[group].mean() for group in groups]),
            )
        )
    return curves


def gain(held_out: HeldOut, population: str) -> list[Curve]:
    """Share of all ones among the share of customers with the highest predictions."""
    curves = []
    for by, labels, predictions in _lines(held_out, population):
        x = np.linspace(0, 1, _POINTS + 1)
        curves.append(Curve(by, x, np.array([captured(labels, predictions, share) for share in x])))
    return curves


def captured(labels: np.ndarray, predictions: np.ndarray, share: float) -> float:
    """Share of all ones that are among the `share` of rows with the highest predictions.

    Equal predictions count in proportion, so the order of rows never matters.
    """
    wanted = share * len(labels)
    order = np.argsort(-predictions, kind="stable")
    ranked, positive = predictions[order], labels[order]
    full = int(wanted)
    if full >= len(labels):
        return 1.0
    threshold = ranked[full]
    above, tied = ranked > threshold, ranked == threshold
    found = positive[above].sum() + positive[tied].sum() * (wanted - above.sum()) / tied.sum()
    return float(found / positive.sum())


def deciles(held_out: HeldOut, population: str) -> list[Curve]:
    """Mean of the label by mean prediction of an amount, in ten groups of equal count."""
    curves = []
    for by in (MODEL, BASELINE):
        mask = held_out.population(population)
        predictions, labels = held_out.predictions[by][mask], held_out.examples.labels[mask]
        if len(labels):
            groups = _equal_groups(predictions)
            curves.append(
                Curve(
                    by,
                    np.array([predictions[group].mean() for group in groups]),
                    np.array([labels[group].mean() for group in groups]),
                )
            )
    return curves


def _equal_groups(predictions: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(predictions, kind="stable")
    return np.array_split(order, min(_GROUPS, len(order)))


def _lines(held_out: HeldOut, population: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(by, labels, predictions) of the population; none where there is one outcome only."""
    lines = []
    for by, predictions in held_out.predictions.items():
        mask = held_out.population(population) & ~np.isnan(predictions)
        labels = held_out.examples.labels[mask]
        if len(labels) and 0 < labels.sum() < len(labels):
            lines.append((by, labels, predictions[mask]))
    return lines


LIFT_SHARES = (0.05, 0.10, 0.20, 0.30, 0.50)


def lift(held_out: HeldOut, population: str) -> list[dict[str, Any]]:
    """A row a share of LIFT_SHARES: the share of all ones found there, by line."""
    lines = _lines(held_out, population)
    return [
        {"share": share, **{by: captured(labels, predictions, share) for by, labels, predictions in lines}}
        for share in LIFT_SHARES
    ]


@dataclass(frozen=True)
class Importance:
    """Of one feature of the 30-day churn model: share of the trees' gain, mean |SHAP| in log-odds."""

    name: str
    gain: float
    shap: float


def feature_importance(judged: Judged) -> tuple[list[Importance], int]:
    """Every feature of the 30-day churn model, by mean |SHAP|, and on how many held-out rows.

    The rows are every n-th of the held-out rows in their order (snapshot, customer), at most EXPLAINED_ROWS.
    """
    model: ReleasedModel = judged.release.models[CHURN]
    gains = importance(model)
    held_out = judged.models.get(CHURN)
    effects = np.zeros(len(model.features))
    sampled = 0
    if held_out is not None:
        examples = held_out.examples
        step = max(1, -(-len(examples) // EXPLAINED_ROWS))
        rows = examples.take(np.arange(0, len(examples), step))
        matrix = rows.features[:, [rows.columns.index(name) for name in model.features]]
        effects = np.abs(model.contributions(matrix)[:, :-1]).mean(axis=0)
        sampled = len(rows)
    found = [
        Importance(name, gains.get(name, 0.0), float(effect))
        for name, effect in zip(model.features, effects, strict=True)
    ]
    return sorted(found, key=lambda each: (-each.shap, -each.gain, each.name)), sampled


@dataclass(frozen=True)
class Group:
    """Quality in one group of customers: 30-day churn, and None for what its rows cannot give."""

    name: str
    rows: int
    happened: float | None
    predicted: float | None
    auc: float | None
    auc_not_yet_lapsed: float | None
    note: str = ""


def _group(
    name: str, labels: np.ndarray, predictions: np.ndarray, not_yet_lapsed: np.ndarray, note: str = ""
) -> Group:
    if len(labels) < LEAST_GROUP:
        return Group(name, len(labels), None, None, None, None, note)
    everyone = probability_figures(labels, predictions)
    several = not_yet_lapsed.sum() >= LEAST_GROUP
    active = probability_figures(labels[not_yet_lapsed], predictions[not_yet_lapsed]) if several else {}
    return Group(
        name,
        len(labels),
        everyone["mean_label"],
        everyone["mean_prediction"],
        everyone["auc"],
        active.get("auc"),
        note,
    )


def stability_by_month(judged: Judged) -> list[Group]:
    """Unseen customers in every month: the months up to training as well as the later ones.

    The report group's customers are in no model's training rows, so every month of theirs is unseen; only
    the weeks of the held-out block lie after the training rows too. The note says which of a month's do. By
    a split of one's own these customers may have no earlier months.
    """
    if judged.labelled is None or judged.retrieve is None or CHURN not in judged.models:
        return []
    labelled, held_out = judged.labelled, judged.models[CHURN]
    rows = np.flatnonzero(judged.unseen(held_out.spec))
    every_month = replace(held_out.plan, rows=rows, block=np.full(len(rows), REPORT, dtype=np.int8))
    examples = retrieve_examples(labelled, [every_month], judged.retrieve)[CHURN]
    predictions = predict_by_name(judged.release.models[CHURN], examples)
    months = examples.snapshots.astype("datetime64[M]")
    block = held_out.plan.blocks.report
    days = examples.snapshots.astype("datetime64[D]")
    groups = []
    for month in np.unique(months):
        mask = months == month
        inside = (days[mask] >= block.first) & (days[mask] <= block.last)
        note = "all" if inside.all() else "in part" if inside.any() else "no"
        groups.append(
            _group(str(month), examples.labels[mask], predictions[mask], examples.not_yet_lapsed[mask], note)
        )
    return groups


def stability_by_cohort(judged: Judged) -> list[Group]:
    """Held-out rows by the quarter of signup."""
    held_out = judged.models.get(CHURN)
    if held_out is None:
        return []
    examples = held_out.examples
    signup = examples.snapshots.astype("datetime64[D]") - examples.column("customer_tenure_days").astype(
        "timedelta64[D]"
    )
    quarters = signup.astype("datetime64[M]").astype(int) // 3
    return [
        _group_of(held_out, quarters == quarter, f"{1970 + quarter // 4} Q{quarter % 4 + 1}")
        for quarter in np.unique(quarters)
    ]


def stability_by_subject(judged: Judged, subjects: Mapping[int, str]) -> list[Group]:
    """Held-out rows by primary subject; `subjects` has the names of the codes."""
    held_out = judged.models.get(CHURN)
    if held_out is None or "primary_subject" not in held_out.examples.columns:
        return []
    codes = held_out.examples.column("primary_subject").astype(int)
    groups = [
        _group_of(held_out, codes == code, subjects.get(int(code), "none yet" if code < 0 else str(code)))
        for code in np.unique(codes)
    ]
    return sorted(groups, key=lambda group: (-group.rows, group.name))


def _group_of(held_out: HeldOut, mask: np.ndarray, name: str) -> Group:
    return _group(
        name,
        held_out.examples.labels[mask],
        held_out.predictions[MODEL][mask],
        held_out.examples.not_yet_lapsed[mask],
    )
