"""One training from end to end: data set → models → evaluation → registry.

Models that were trained elsewhere on an export (training/sagemaker.py) take the second half of the same way.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from scoring.release import (
    MODEL_NAMES,
    OPTIONAL_MODELS,
    SPLIT_FILE,
    Release,
    ReleasedModel,
    checksum,
    read_champion,
)
from training.dataset import (
    Examples,
    LabelledSnapshots,
    Plan,
    Retrieve,
    check_enough,
    plan,
    read_labelled_snapshots,
    read_truth,
    retrieve_examples,
)
from training.decision import Decision, becomes_champion, decide, not_trained
from training.errors import TrainingError
from training.evaluation import held_out_report, predict_in_order
from training.fit import learn
from training.models import SPECS, ModelSpec
from training.periods import CustomerPeriods
from training.registry import Publication, open_store, publish, training_lock
from training.report import mlflow_metrics, report_json
from training.split import NOWHERE, REPORT

log = logging.getLogger(__name__)

# Told of each finished step; the terminal shows a bar of it.
Progress = Callable[[str], None]
_UNNAMED = "v0"


@dataclass(frozen=True)
class Settings:
    """Everything a training depends on besides the code and the data."""

    as_of: datetime
    trained_at: datetime
    seed: int
    models_dir: Path
    raw_dir: Path
    tracking_uri: str
    artifact_root: Path
    threads: int | None = None  # of LightGBM; None: OpenMP's default, one a core
    periods: CustomerPeriods | None = None  # None: split by time and by a hash of the customer


@dataclass(frozen=True)
class Outcome:
    """What a training did."""

    release: Release
    decisions: Mapping[str, Decision]
    champion: bool


@dataclass(frozen=True)
class Candidates:
    """Newly trained models, and of each a log of its fit (`trees` at least).

    `untrained` says why an optional model is not among them. `trained_until` and `training_rows` are as in
    scoring.release.Release.
    """

    models: Mapping[str, ReleasedModel]
    fits: Mapping[str, Mapping[str, Any]]
    trained_until: datetime
    training_rows: int
    untrained: Mapping[str, str] = field(default_factory=dict)


def steps(specs: Sequence[ModelSpec] = SPECS) -> int:
    """How many times a training reports progress."""
    return len(specs) + 4


ADOPTION_STEPS = 4
"""How many times an adoption reports progress."""


def train(
    warehouse: duckdb.DuckDBPyConnection,
    retrieve: Retrieve,
    categorical: Sequence[str],
    settings: Settings,
    progress: Progress = log.info,
) -> Outcome:
    """Train, judge and publish the next version of the five models.

    A model of OPTIONAL_MODELS that cannot be trained on these data stays what it was, or is left out. Raises
    TrainingError (data, store), ReleaseError (files); the champion is then what it was before.
    """
    with training_lock(settings.models_dir):
        plans, examples, untrained = _data_set(warehouse, retrieve, settings, progress)
        learned = {}
        for spec in SPECS:
            if spec.name in untrained:
                progress(f"{spec.name}: not trained")
                continue
            learned[spec.name] = learn(
                spec, examples[spec.name], categorical, settings.seed, _UNNAMED, settings.threads
            )
            progress(f"{spec.name}: {learned[spec.name].log['trees']} trees")
        ends = max(each.blocks.trained_until for each in plans.values())
        candidates = Candidates(
            models={name: each.model for name, each in learned.items()},
            fits={name: each.log for name, each in learned.items()},
            trained_until=ends.astype("datetime64[us]").item(),
            training_rows=_training_rows(plans),
            untrained=untrained,
        )
        return _judge_and_publish(settings, plans, examples, candidates, progress, "training")


def adopt(
    warehouse: duckdb.DuckDBPyConnection,
    retrieve: Retrieve,
    candidates: Candidates,
    settings: Settings,
    progress: Progress = log.info,
) -> Outcome:
    """Judge models that were trained elsewhere as `train` judges its own, and publish the next version.

    They must not have learned from a customer of the report group (training/split.py); exports read by
    training/records.py keep to that. Held-out weeks before `candidates.trained_until` do not count, for the
    champion neither: who has seen how other customers fared in these weeks knows more than is fair. Raises
    what `train` raises; TrainingError also when too few weeks are left, or when a model needs a feature that
    its service does not have.
    """
    with training_lock(settings.models_dir):
        plans, examples, untrained = _data_set(warehouse, retrieve, settings, progress)
        # What these data cannot judge is not adopted.
        judged = {name: model for name, model in candidates.models.items() if name in examples}
        candidates = replace(candidates, models=judged, untrained=untrained)
        plans, examples = _held_out_after(candidates.trained_until, plans, examples)
        for name, model in candidates.models.items():
            unknown = sorted(set(model.features) - set(examples[name].columns))
            if unknown:
                raise TrainingError(
                    f"{name} needs the features {', '.join(unknown)}, which {model.feature_service} lacks: "
                    "it was trained on an export of other definitions."
                )
        models = {
            name: replace(model, origin_version=_UNNAMED, held_out={})
            for name, model in candidates.models.items()
        }
        return _judge_and_publish(
            settings, plans, examples, replace(candidates, models=models), progress, "adoption"
        )


def _data_set(
    warehouse: duckdb.DuckDBPyConnection, retrieve: Retrieve, settings: Settings, progress: Progress
) -> tuple[dict[str, Plan], dict[str, Examples], dict[str, str]]:
    labelled = read_labelled_snapshots(warehouse, SPECS, settings.as_of)
    plans, untrained = _plans(labelled, settings.periods)
    progress(f"{len(labelled):,} labelled snapshots")
    examples = retrieve_examples(labelled, list(plans.values()), retrieve)
    progress(f"features of {_all_rows(plans):,} snapshots")
    return plans, examples, untrained


def _held_out_after(
    moment: datetime, plans: Mapping[str, Plan], examples: Mapping[str, Examples]
) -> tuple[dict[str, Plan], dict[str, Examples]]:
    """The same with the report blocks beginning no earlier than `moment`."""
    first = np.datetime64(moment, "us")
    # An export as of then leaves the models with the shortest report blocks all their weeks.
    shortest = min(each.spec.report_weeks for each in plans.values())
    as_of = min(each.blocks.report.first for each in plans.values() if each.spec.report_weeks == shortest)
    later_plans, later_examples = {}, {}
    for name, own in examples.items():
        block = np.where((own.block == REPORT) & (own.snapshots < first), NOWHERE, own.block)
        blocks = plans[name].blocks
        try:
            check_enough(plans[name].spec, own.labels, own.not_yet_lapsed, block)
        except TrainingError as error:
            raise TrainingError(
                f"{name} has learned from data until {moment:%Y-%m-%d}, which leaves too few of its held-out "
                f"weeks ({blocks.report.first} to {blocks.report.last}) to judge it by: export with --as-of "
                f"{as_of} and train again."
            ) from error
        report = replace(blocks.report, first=max(blocks.report.first, first.astype("datetime64[D]")))
        later_plans[name] = replace(plans[name], blocks=replace(blocks, report=report))
        later_examples[name] = replace(own, block=block)
    return later_plans, later_examples


def _judge_and_publish(
    settings: Settings,
    plans: Mapping[str, Plan],
    examples: Mapping[str, Examples],
    candidates: Candidates,
    progress: Progress,
    run_name: str,
) -> Outcome:
    incumbent = read_champion(settings.models_dir)
    _check_report_unseen(plans, incumbent, settings)
    outcome, challengers = _judge(settings, plans, examples, candidates, incumbent)
    progress("held-out figures")
    client = open_store(settings.tracking_uri, settings.artifact_root)
    published = publish(
        client,
        settings.models_dir,
        lambda version: _publication(_named(outcome, version), candidates.fits, challengers, settings),
        run_name,
    )
    progress(f"published {published.release.model_version}")
    return replace(outcome, release=published.release)


def _plans(
    labelled: LabelledSnapshots, periods: CustomerPeriods | None
) -> tuple[dict[str, Plan], dict[str, str]]:
    """The plans of the models that can be trained, and why the others, all of them optional, cannot."""
    plans, untrained = {}, {}
    for spec in SPECS:
        try:
            plans[spec.name] = plan(labelled, spec, periods)
        except TrainingError as error:
            if spec.name not in OPTIONAL_MODELS:
                raise
            untrained[spec.name] = str(error)
            log.warning("Not trained: %s", error)
    return plans, untrained


def _check_report_unseen(plans: Mapping[str, Plan], incumbent: Release | None, settings: Settings) -> None:
    """With periods the groups by hash, which keep all versions away from the report group, do not hold."""
    if incumbent is None or (settings.periods is None and incumbent.split_sha256 is None):
        return
    first = min(each.blocks.report.first for each in plans.values())
    if np.datetime64(incumbent.trained_until) > first:
        raise TrainingError(
            f"The champion {incumbent.model_version} has learned from data until "
            f"{incumbent.trained_until:%F}, and the report block of the split begins on {first}: that "
            "comparison is not fair. Let the report block begin later, or train with another MODELS_DIR."
        )


def _judge(
    settings: Settings,
    plans: Mapping[str, Plan],
    examples: Mapping[str, Examples],
    candidates: Candidates,
    incumbent: Release | None,
) -> tuple[Outcome, dict[str, dict[str, Any]]]:
    """The bundle, still without a version number, and the held-out reports of the challengers."""
    challengers = candidates.models
    trained = tuple(spec for spec in SPECS if spec.name in challengers)
    chosen, decisions = decide(challengers, incumbent.models if incumbent else None, examples, trained)
    truths = {spec.name: _truth(settings.raw_dir, spec, examples[spec.name]) for spec in trained}

    def report(models: Mapping[str, ReleasedModel], spec: ModelSpec) -> dict[str, Any]:
        own = examples[spec.name]
        predictions = predict_in_order(models[spec.name], own.of(REPORT), models["churn_risk_30d"])
        return held_out_report(spec, plans[spec.name].blocks, own, predictions, truths[spec.name])

    models = {spec.name: replace(chosen[spec.name], held_out=report(chosen, spec)) for spec in trained}
    for spec in SPECS:
        if spec.name in candidates.untrained:
            kept = incumbent.models.get(spec.name) if incumbent else None
            decisions[spec.name] = not_trained(spec, candidates.untrained[spec.name], kept)
            if kept is not None:
                models[spec.name] = kept
    models = {name: models[name] for name in MODEL_NAMES if name in models}
    trained_until = candidates.trained_until
    if incumbent is not None and any(not decision.replaced for decision in decisions.values()):
        trained_until = max(trained_until, incumbent.trained_until)
    release = Release(
        model_version="v1",  # a placeholder until the registry has given the number
        trained_at=settings.trained_at,
        data_as_of=settings.as_of,
        trained_until=trained_until,
        training_rows=candidates.training_rows,
        models=models,
        split_sha256=None if settings.periods is None else checksum(settings.periods.released()),
    )
    outcome = Outcome(release=release, decisions=decisions, champion=becomes_champion(decisions))
    return outcome, {spec.name: report(challengers, spec) for spec in trained}


def _truth(raw_dir: Path, spec: ModelSpec, examples: Examples) -> np.ndarray | None:
    if not spec.name.startswith("churn_risk"):
        return None
    reporting = examples.of(REPORT)
    truth = read_truth(raw_dir, reporting.customer_ids, reporting.snapshots, [spec.name])
    return None if truth is None else truth[:, 0]


def _named(outcome: Outcome, model_version: str) -> Outcome:
    """The outcome under its version number; the boosters that were trained now originate in it."""
    models = {
        name: replace(model, origin_version=model_version) if model.origin_version == _UNNAMED else model
        for name, model in outcome.release.models.items()
    }
    decision = {
        "champion": outcome.champion,
        "summary": _summary(outcome),
        "models": {name: each.as_json() for name, each in outcome.decisions.items()},
    }
    release = replace(outcome.release, model_version=model_version, models=models, decision=decision)
    return replace(outcome, release=release)


def _summary(outcome: Outcome) -> str:
    if not outcome.champion:
        return "kept champion: every challenger was worse on the held-out rows"
    new = [name for name, decision in outcome.decisions.items() if decision.replaced]
    if len(new) == len(MODEL_NAMES):
        return "champion: all five models are new"
    carried = [name for name in outcome.release.models if name not in new]
    missing = [name for name in outcome.decisions if name not in outcome.release.models]
    parts = [f"new are {', '.join(new)}"]
    if carried:
        parts.append(f"carried over {', '.join(carried)}")
    if missing:
        parts.append(f"not trained {', '.join(missing)}")
    return f"champion: {'; '.join(parts)}"


def _publication(
    outcome: Outcome,
    fits: Mapping[str, Mapping[str, Any]],
    challengers: Mapping[str, Mapping[str, Any]],
    settings: Settings,
) -> Publication:
    release = outcome.release
    report = report_json(release, fits, challengers)
    return Publication(
        release=release,
        extra_files={
            "report.json": json.dumps(report, indent=2, allow_nan=False) + "\n",
            "decision.json": json.dumps(release.decision, indent=2, allow_nan=False) + "\n",
            # Whoever judges these models again must hold out the same rows.
            **({} if settings.periods is None else {SPLIT_FILE: settings.periods.released()}),
        },
        metrics=mlflow_metrics(challengers),
        parameters={
            "seed": str(settings.seed),
            "data_as_of": release.data_as_of.isoformat(),
            "trained_until": release.trained_until.isoformat(),
            "training_rows": str(release.training_rows),
            **{f"{name}.trees": str(fit["trees"]) for name, fit in fits.items()},
        },
        tags={
            "model_version": release.model_version,
            "decision": release.decision["summary"],
            **{f"decision.{name}": each.described for name, each in outcome.decisions.items()},
        },
        champion=outcome.champion,
    )


def _all_rows(plans: Mapping[str, Plan]) -> int:
    return len(np.unique(np.concatenate([each.rows for each in plans.values()])))


def _training_rows(plans: Mapping[str, Plan]) -> int:
    """Distinct snapshots that any of the models was fitted on or chosen with."""
    return len(np.unique(np.concatenate([each.rows[each.block != REPORT] for each in plans.values()])))
