"""The training report: as JSON beside the release, as flat figures for MLflow, and as a table to read."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from scoring.release import Release
from training.decision import Decision
from training.metrics import flatten
from training.models import EVERYONE, NOT_YET_LAPSED, SPECS

_POPULATIONS = (EVERYONE, NOT_YET_LAPSED)
_SHOWN = {
    "probability": ("auc", "average_precision", "log_loss", "brier", "calibration_error", "accuracy"),
    "amount": ("mae", "rmse"),
}
_TITLES = {"calibration_error": "cal. error", "average_precision": "avg. prec.", "log_loss": "log loss"}


def report_json(
    release: Release, fits: Mapping[str, Mapping[str, Any]], challengers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The whole report as plain values: of each model what is released, and how the challenger was fitted and
    fared.

    `fits` are the logs of fitting (Learned.log). `challengers` are the held-out reports of this run's own
    models; they differ from the released ones where the incumbent was carried over.
    """
    return {
        "model_version": release.model_version,
        "trained_at": release.trained_at.isoformat(),
        "data_as_of": release.data_as_of.isoformat(),
        "trained_until": release.trained_until.isoformat(),
        "training_rows": release.training_rows,
        "decision": release.decision,
        "models": {
            name: {
                "origin_version": model.origin_version,
                "features": len(model.features),
                "held_out": model.held_out,
                "challenger": challengers.get(name),
                "fit": fits.get(name),
            }
            for name, model in release.models.items()
        },
    }


def mlflow_metrics(held_out: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The figures of each model as MLflow metrics: `<model>.<population>.<figure>`, with `.baseline` and
    `.best`.
    """
    metrics = {}
    for name, report in held_out.items():
        sources = {
            "": report,
            ".baseline": report["baseline"] or {},
            ".best": report["best_possible"] or {},
        }
        for suffix, source in sources.items():
            figures = {population: source[population] for population in _POPULATIONS if population in source}
            metrics |= {f"{name}{suffix}.{figure}": value for figure, value in flatten(figures).items()}
    return metrics


def tables(held_out: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Rich tables of the held-out figures: one for the probabilities, one for the amounts."""
    return [_table(kind, held_out) for kind in _SHOWN]


def decision_table(decisions: Mapping[str, Decision]) -> Table:
    """Challenger and incumbent on the same held-out rows, and what followed."""
    table = Table(title="Champion or not", title_justify="left")
    for title in ("model", "figure", "challenger", "incumbent", "decision"):
        table.add_column(title, justify="right" if title in ("challenger", "incumbent") else "left")
    for name, decision in decisions.items():
        table.add_row(
            name,
            f"{_TITLES.get(decision.figure, decision.figure)}, {decision.population.replace('_', ' ')}",
            _number(decision.challenger),
            _number(decision.incumbent),
            decision.described,
        )
    return table


def _table(kind: str, held_out: Mapping[str, Mapping[str, Any]]) -> Table:
    shown = _SHOWN[kind]
    title = "Held-out quality: later than everything learned from, customers never seen"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    table.add_column("population")
    table.add_column("by")
    table.add_column("rows", justify="right")
    for figure in shown:
        table.add_column(_TITLES.get(figure, figure), justify="right")
    table.add_column("reference")
    for spec in SPECS:
        if spec.kind != kind or spec.name not in held_out:
            continue
        report = held_out[spec.name]
        reference = report["reference"]
        for population in (name for name in _POPULATIONS if name in report):
            rows = [
                ("model", report),
                ("naive", report["baseline"]),
                ("best possible", report["best_possible"]),
            ]
            for by, source in rows:
                if source is None:
                    continue
                figures = source[population]
                table.add_row(
                    spec.name if by == "model" else "",
                    population.replace("_", " ") if by == "model" else "",
                    by,
                    f"{figures['rows']:,}",
                    *(_number(figures[figure]) for figure in shown),
                    _range(reference) if by == "model" else "",
                )
        table.add_section()
    return table


def _range(reference: Mapping[str, Any]) -> str:
    figure = _TITLES.get(reference["figure"], reference["figure"])
    return f"{figure} {reference['low']:g} to {reference['high']:g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
