"""The report's content: every figure beside its reference, as blocks that render as HTML and as Markdown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from report import figures, quality, sections_beyond, sections_data, sections_models
from report.document import (
    NOTHING,
    Block,
    Bullets,
    Document,
    Paragraph,
    Section,
    count,
)
from report.models import BASELINE, BEST, CHURN
from report.names import (
    NO_MODEL,
    POPULATION_NAMES,
    held_out_figure,
)
from report.sources import Sources
from training.models import EVERYONE, NOT_YET_LAPSED

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


def sections() -> list[tuple[str, Callable[[Sources], Section]]]:
    """(title, function that writes it) in the order of the page."""
    return [
        ("Files and sizes", sections_data.files_and_sizes),
        ("Segments", sections_data.segments),
        ("Labels", sections_data.labels),
        ("Two customers in full", sections_data.example_customers),
        ("What goes with churn", sections_data.churn_by_bands),
        ("First sessions", sections_data.first_sessions),
        ("Correlations", sections_data.correlations),
        ("Quality checks", sections_data.quality_checks),
        ("What can be predicted, and how well", sections_models.model_quality),
        ("Lift and gain", sections_models.lift_and_gain),
        ("Which features matter", sections_models.feature_importance),
        ("Stability", sections_models.stability),
        ("Market, cohorts and seasons", sections_beyond.market),
        ("Limits", sections_beyond.limits),
    ]


def write(sources: Sources, progress: Progress = log.info) -> Document:
    """The whole report; `progress` is told of each finished section."""
    written = []
    for title, section in sections():
        written.append(section(sources))
        progress(title)
    return Document("Data and model report", tuple(_lead(sources)), tuple(written))


def _lead(sources: Sources) -> Iterable[Block]:
    everything, period = figures.history(sources.warehouse), figures.period(sources.warehouse)
    yield Paragraph(
        "Every figure of the training-data summary that this system reproduces, computed from the warehouse "
        "and shown beside its reference, then what the models can tell in advance. Written by `make report`."
    )
    if not sources.reference_applies:
        yield Paragraph(
            "The reference describes another marketplace than the one that these data come from, namely the "
            "one that the simulator imitates: its figures are here to compare with, not to reach."
        )
    if period["rows"]:
        yield Paragraph(
            f"The warehouse holds {count(everything['rows'])} snapshots of {count(everything['customers'])} "
            f"customers, {everything['first_snapshot']} to {everything['last_snapshot']}. Unless said "
            f"otherwise, a figure of the data is over the {count(period['rows'])} snapshots of the "
            f"{period['snapshots']} Mondays from {period['first_snapshot']} to {period['last_snapshot']}: "
            f"the last year in which every label is known ({count(period['customers'])} customers, one "
            "record a customer a week)."
        )
    else:
        yield Paragraph(
            f"The warehouse holds {count(everything['rows'])} snapshots, and none whose labels are all known "
            f"yet: figures that need them read {NOTHING}."
        )
    yield Paragraph(
        "Churn is given for two populations: everyone in scope, and those not yet lapsed (a completed "
        f"session in the last {sources.variables['lapse_days']} days). The second is the honest one: who has "
        "lapsed already counts as churned by definition, and is easy to predict."
    )
    yield Bullets(tuple(_in_short(sources)))


def _in_short(sources: Sources) -> Iterable[str]:
    broken = [check for check in sources.checks if check.result == quality.BROKEN]
    ok = sum(check.result == quality.OK for check in sources.checks)
    unlike = sum(check.result == quality.DIFFERS for check in sources.checks)
    text = f"Quality: {ok} of {len(sources.checks)} checks ok, {len(broken)} broken"
    text += f", {unlike} unlike the reference." if unlike else "."
    yield text
    if sources.release is None:
        yield NO_MODEL
        return
    model = sources.release.models.get(CHURN)
    if model is not None:
        both = []
        for name in (EVERYONE, NOT_YET_LAPSED):
            beside = [
                f"{title} {held_out_figure(source, name, 'auc', 3)}"
                for title, source in (
                    (BASELINE, model.held_out.get("baseline")),
                    (BEST, model.held_out.get("best_possible")),
                )
                if source
            ]
            reached = held_out_figure(model.held_out, name, "auc", 3)
            both.append(f"{reached} ({'; '.join([POPULATION_NAMES[name], ', '.join(beside)])})")
        yield f"Churn within 30 days, AUC on later weeks of unseen customers: {' and '.join(both)}."
