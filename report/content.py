"""The report's content: every figure beside its reference, as blocks that render as HTML and as Markdown."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from feature_repo.catalog import FeatureCatalog
from report import figures, models, plots, quality, reference
from report.document import (
    NOTHING,
    Block,
    Bullets,
    Document,
    Heading,
    Paragraph,
    Plot,
    Plots,
    Section,
    Table,
    count,
    number,
    percent,
    size,
    table,
    value,
)
from report.models import BASELINE, BEST, CHURN, MODEL, HeldOut, Judged
from scoring.release import Release
from training.metrics import MORE_IS_BETTER, probability_figures
from training.models import EVERYONE, NOT_YET_LAPSED, SPECS, ModelSpec
from training.reference import REFERENCES
from training.reference import Reference as QualityReference

log = logging.getLogger(__name__)

NO_MODEL = (
    "No model was trained for this warehouse yet, so predictions and model quality are missing here: "
    "`make run` does everything, or, on this warehouse, `python -m training`, then `python -m scoring`, then "
    "`make report` again."
)
_POPULATION_NAMES = {EVERYONE: "everyone", NOT_YET_LAPSED: "not yet lapsed"}
_MODEL_TITLES = {
    "churn_risk_14d": "churn within 14 days",
    "churn_risk_30d": "churn within 30 days",
    "health_score": "health score",
    "session_velocity": "session velocity",
    "first_session_success": "first-session success",
}
_MODEL_UNITS = {"health_score": "points", "session_velocity": "sessions a week"}
_LABEL_TITLES = {
    "label_first_session_success": "first-session success",
    "label_churn_risk_14d": "high churn risk, 14 days",
    "label_churn_risk_30d": "high churn risk, 30 days",
    "label_health_score": "average health score",
    "label_session_velocity": "average session velocity, a week",
}
_SEGMENT_TITLES = {name: name.replace("_", "-") for name in reference.SEGMENTS}
_FIGURE_TITLES = {
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
_SHOWN_FIGURES = {
    "probability": (
        "auc",
        "average_precision",
        "log_loss",
        "brier",
        "calibration_error",
        "accuracy",
        "mean_label",
        "mean_prediction",
    ),
    "amount": ("mae", "rmse", "mean_label", "mean_prediction"),
}


@dataclass(frozen=True)
class Sources:
    """All that a report is made from. `judged` is None when no model was ever trained."""

    warehouse: duckdb.DuckDBPyConnection
    catalog: FeatureCatalog
    variables: Mapping[str, Any]
    raw_dir: Path
    exports_dir: Path
    judged: Judged | None
    has_truth: bool
    checks: Sequence[quality.Check] = field(default=())
    ranges: Sequence[quality.Range] = field(default=())

    @property
    def release(self) -> Release | None:
        """The champion."""
        return None if self.judged is None else self.judged.release

    @property
    def active(self) -> str:
        """The SQL condition of not yet lapsed."""
        return f"days_since_last_session < {int(self.variables['lapse_days'])}"


Progress = Callable[[str], None]


def sections() -> list[tuple[str, Callable[[Sources], Section]]]:
    """(title, function that writes it) in the order of the page."""
    return [
        ("Files and sizes", files_and_sizes),
        ("Segments", segments),
        ("Labels", labels),
        ("Two customers in full", example_customers),
        ("What goes with churn", churn_by_bands),
        ("First sessions", first_sessions),
        ("Correlations", correlations),
        ("Quality checks", quality_checks),
        ("What can be predicted, and how well", model_quality),
        ("Lift and gain", lift_and_gain),
        ("Which features matter", feature_importance),
        ("Stability", stability),
        ("Market, cohorts and seasons", market),
        ("Limits", limits),
    ]


def write(sources: Sources, progress: Progress = log.info) -> Document:
    """The whole report; `progress` is told of each finished section."""
    written = []
    for title, section in sections():
        written.append(section(sources))
        progress(title)
    return Document("Data and model report", tuple(_lead(sources)), tuple(written))


# ----------------------------------------------------------------------------------------------------------
# Data
# ----------------------------------------------------------------------------------------------------------


def _lead(sources: Sources) -> Iterable[Block]:
    everything, period = figures.history(sources.warehouse), figures.period(sources.warehouse)
    yield Paragraph(
        "Every figure of the training-data summary that this system reproduces, computed from the warehouse "
        "and shown beside its reference, then what the models can tell in advance. Written by `make report`."
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
        both = [
            f"{_figure(model.held_out, name, 'auc', 3)} ({_POPULATION_NAMES[name]}; naive baseline "
            f"{_figure(model.held_out.get('baseline'), name, 'auc', 3)}, best possible "
            f"{_figure(model.held_out.get('best_possible'), name, 'auc', 3)})"
            for name in (EVERYONE, NOT_YET_LAPSED)
        ]
        yield f"Churn within 30 days, AUC on later weeks of unseen customers: {' and '.join(both)}."


def files_and_sizes(sources: Sources) -> Section:
    """Raw files, public tables, exported training files."""
    raw = figures.raw_tables(sources.warehouse, sources.raw_dir)
    blocks: list[Block] = [
        Heading("Raw files"),
        table(
            ("table", "files", "size", "row versions accepted", "rejected"),
            "lrrrr",
            [
                *(
                    (
                        each.name,
                        count(each.files),
                        size(each.size),
                        count(each.accepted),
                        count(each.rejected),
                    )
                    for each in raw
                ),
                (
                    "all",
                    count(_total(each.files for each in raw)),
                    size(_total(each.size for each in raw)),
                    count(_total(each.accepted for each in raw)),
                    count(_total(each.rejected for each in raw)),
                ),
            ],
        ),
    ]
    if any(each.files is None for each in raw):
        blocks.append(
            Paragraph("Where files and size are missing, the raw directory is not at hand any more.")
        )
    blocks += [
        Heading("Tables"),
        table(
            ("table", "rows"),
            "lr",
            [(f"`{name}`", count(rows)) for name, rows in figures.public_tables(sources.warehouse)],
        ),
        Heading("Training files"),
        *_exports(sources.exports_dir),
    ]
    return Section("Files and sizes", "files", tuple(blocks))


def _total(values: Iterable[int | None]) -> int | None:
    known = [each for each in values if each is not None]
    return sum(known) if known else None


def _exports(directory: Path) -> Iterable[Block]:
    manifest = directory / "manifest.json"
    entries: dict[str, Mapping[str, Any]] = {}
    if manifest.exists():
        try:
            listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
            entries = {entry["file"]: entry for entry in listed}
        except (ValueError, KeyError, TypeError) as error:
            yield Paragraph(f"The manifest of the training files cannot be read: {error!r}.")
    names = [
        *reference.EXPORTED_RECORDS,
        *(name for name in entries if name not in reference.EXPORTED_RECORDS),
    ]
    yield table(
        ("file", "records", "size", "SHA-256, first 12 digits", "records, reference"),
        "lrrlr",
        [
            (
                f"`{name}`",
                count(entries.get(name, {}).get("rows")),
                size(entries.get(name, {}).get("bytes")),
                str(entries.get(name, {}).get("sha256", NOTHING))[:12],
                count(reference.EXPORTED_RECORDS.get(name)),
            )
            for name in names
        ],
    )
    if not entries:
        yield Paragraph(
            "These files were not written here yet: `python -m training export` makes them, one record a "
            "customer."
        )


def segments(sources: Sources) -> Section:
    """Mix of the segments, and what customers of each look like."""
    mix = figures.segment_mix(sources.warehouse)
    compared = figures.segment_comparison(sources.warehouse)
    plot = plots.paired_bars(
        "segments",
        "Segments, share of snapshots",
        list(_SEGMENT_TITLES.values()),
        list(mix.values()),
        list(reference.SEGMENT_SHARES.values()),
    )
    rows = []
    for each in reference.SEGMENT_FIGURES:
        expected = dict(zip(reference.SEGMENTS, each.expected, strict=True))
        # The median of a 0/1 label says nothing.
        kinds = (
            ("mean", "reference")
            if each.column.startswith("label_churn")
            else ("median", "mean", "reference")
        )
        for kind in kinds:
            if kind == "reference":
                cells = [_as(each.kind, expected[name], exact=True) for name in reference.SEGMENTS]
            else:
                cells = [_as(each.kind, compared[each.column][name][kind]) for name in reference.SEGMENTS]
            rows.append((each.title if kind == kinds[0] else "", kind, *cells))
    return Section(
        "Segments",
        "segments",
        (
            table(
                ("segment", "here", "reference", "difference"),
                "lrrr",
                [
                    (
                        _SEGMENT_TITLES[name],
                        percent(mix[name]),
                        percent(reference.SEGMENT_SHARES[name]),
                        _points(mix[name], reference.SEGMENT_SHARES[name]),
                    )
                    for name in reference.SEGMENTS
                ],
            ),
            Plots(
                (
                    Plot(
                        "segments",
                        "Share of each segment beside the reference: "
                        + _in_words((_SEGMENT_TITLES[name], mix[name]) for name in reference.SEGMENTS),
                        plot,
                    ),
                )
            ),
            Heading("What customers of each segment look like"),
            Paragraph(
                "The reference figures read as typical customers rather than means, so the median stands "
                "first. Customers before their first session are left out: several of these columns are "
                "placeholders for them."
            ),
            table(("figure", "", *_SEGMENT_TITLES.values()), "llrrrr", rows),
        ),
    )


def _as(kind: str, content: float | None, exact: bool = False) -> str:
    if kind == "share":
        text = percent(content)
        return text.replace(".0 %", " %") if exact else text
    if kind == "count":
        return number(content, 0 if exact else 1)
    return number(content, 2)


def labels(sources: Sources) -> Section:
    """What the labels are like, for everyone and for those not yet lapsed."""
    everyone = figures.label_statistics(sources.warehouse)
    active = figures.label_statistics(sources.warehouse, sources.active)
    shares = ("label_first_session_success", "label_churn_risk_14d", "label_churn_risk_30d")

    def shown(label: str, content: float | None) -> str:
        if label in shares:
            return percent(content)
        return number(content, 1 if label == "label_health_score" else 2)

    return Section(
        "Labels",
        "labels",
        (
            table(
                (
                    "label",
                    "here",
                    "not yet lapsed",
                    "reference",
                    "records",
                    "std. deviation",
                    "least",
                    "greatest",
                ),
                "lrrrrrrr",
                [
                    (
                        _LABEL_TITLES[label],
                        shown(label, everyone[label]["mean"]),
                        shown(label, active[label]["mean"]),
                        shown(label, expected),
                        count(everyone[label]["rows"]),
                        number(everyone[label]["deviation"]),
                        value(everyone[label]["least"]),
                        value(everyone[label]["greatest"]),
                    )
                    for label, expected in reference.LABELS.items()
                ],
            ),
            Paragraph(
                "First-session success is known only of snapshots in the two weeks before a first session "
                "that was rated within a week, so nobody of them has had a session that could lapse."
            ),
        ),
    )


def example_customers(sources: Sources) -> Section:
    """A thriving and an at-risk customer with all there is about them."""
    examples = {
        name: figures.example(sources.warehouse, name, sources.catalog.names)
        for name in ("thriving", "at_risk")
    }
    titles = [_SEGMENT_TITLES[name] for name in examples]
    codes = figures.code_names(sources.warehouse)
    blocks: list[Block] = [
        Paragraph(
            "The most typical thriving and the most typical at-risk customer of the last Monday whose labels "
            "are all known: the one with the least sum of distances from the segment's medians (in standard "
            "deviations) over the columns of the table above, outcomes included."
        )
    ]
    for name, found in examples.items():
        if found is None:
            blocks.append(Paragraph(f"There is no {_SEGMENT_TITLES[name]} customer on that day."))

    def both(read: Callable[[figures.Example], str]) -> list[str]:
        return [NOTHING if found is None else read(found) for found in examples.values()]

    blocks.append(
        table(
            ("", *titles),
            "lrr",
            [
                ("customer", *both(lambda found: found.customer_id)),
                ("snapshot", *both(lambda found: value(found.snapshot))),
                *(
                    (name, *both(lambda found, name=name: value(found.labels[name])))
                    for name in ("segment", "health_index", *reference.LABELS)
                ),
            ],
        )
    )
    blocks.append(Heading("Prediction and reasons"))
    if sources.release is None:
        blocks.append(Paragraph(NO_MODEL))
    elif not any(found and found.prediction for found in examples.values()):
        blocks.append(
            Paragraph(
                "That snapshot was not scored: predictions are made for snapshots after the training only."
            )
        )
    else:
        scored = ("model_version", *(spec.name for spec in SPECS), "health_tier")
        blocks.append(
            table(
                ("", *titles),
                "lrr",
                [
                    *(
                        (name, *both(lambda found, name=name: value((found.prediction or {}).get(name))))
                        for name in scored
                    ),
                    *(
                        (f"reason {rank}", *both(lambda found, rank=rank: _reason(found, rank)))
                        for rank in (1, 2, 3)
                    ),
                ],
            )
        )
        blocks.append(
            Paragraph(
                "A reason's number is its effect on the log-odds of churn within 30 days. First-session "
                "success is predicted before a first session only."
            )
        )
    blocks.append(Heading(f"All {len(sources.catalog.features)} features"))
    blocks.append(
        table(
            ("feature", *titles, "unit", "description"),
            "lrrll",
            [
                (
                    f"`{feature.name}`",
                    *both(
                        lambda found, name=feature.name: _feature(found.features.get(name), codes.get(name))
                    ),
                    feature.unit,
                    feature.description.replace("`", ""),
                )
                for feature in sources.catalog.features
            ],
        )
    )
    return Section("Two customers in full", "examples", tuple(blocks))


def _feature(content: object, names: Mapping[int, str] | None) -> str:
    text = value(content)
    return f"{text} ({names[content]})" if names and content in names else text


def _reason(found: figures.Example, rank: int) -> str:
    name = (found.prediction or {}).get(f"reason_{rank}")
    if name is None:
        return NOTHING
    effect = found.prediction[f"reason_{rank}_effect"]
    return f"{name} ({'+' if effect > 0 else ''}{number(effect)})"


def churn_by_bands(sources: Sources) -> Section:
    """Churn within 30 days by bands of five features."""
    blocks: list[Block] = [
        Paragraph(
            "Share that churns within 30 days. The reference gives three numbers and otherwise words; a word "
            "has no number to compare with, the order of the bands does."
        )
    ]
    images = []
    tables: list[Block] = []
    for banded in reference.CHURN_BY:
        everyone = figures.share_by_band(sources.warehouse, banded)
        active = figures.share_by_band(sources.warehouse, banded, sources.active)
        tables.append(Heading(f"By {banded.title}"))
        tables.append(_bands(banded, everyone, active))
        images.append(_band_plot(banded, everyone, f"Churn within 30 days, by {banded.title}"))
    blocks.append(Plots(tuple(images)))
    blocks += tables
    blocks.append(
        Paragraph(
            "Velocity change is 7 days against 30: who had a session in the last 30 days and none in the "
            "last 7 reads −100 %. Payment success without a payment in 30 days is that of all payments so "
            f"far: in the band from 85 to 95 %, {percent(_without_payment(sources))} of the records have had "
            "no successful payment for 30 days."
        )
    )
    return Section("What goes with churn", "churn", tuple(blocks))


def _without_payment(sources: Sources) -> float | None:
    return figures.one(
        sources.warehouse,
        """
        select avg(cast(days_since_last_payment >= 30 as integer)) as share
        from report_rows
        where payment_success_rate_30d between 0.85 and 0.95
        """,
    )["share"]


def _bands(
    banded: reference.Banded, everyone: Sequence[figures.Row], active: Sequence[figures.Row] | None
) -> Table:
    words = [band.words for band in banded.bands] + [NOTHING] * (len(everyone) - len(banded.bands))
    header = (banded.title, "records", "share", "reference")
    if active is None:
        rows = [
            (row["title"], count(row["rows"]), percent(row["share"]), word)
            for row, word in zip(everyone, words, strict=True)
        ]
        return table(header, "lrrr", rows)
    rows = [
        (
            row["title"],
            count(row["rows"]),
            percent(row["share"]),
            word,
            count(other["rows"]),
            percent(other["share"]),
        )
        for row, other, word in zip(everyone, active, words, strict=True)
    ]
    return table((*header, "records not yet lapsed", "share of these"), "lrrrrr", rows)


def _band_plot(banded: reference.Banded, found: Sequence[figures.Row], title: str) -> Plot:
    shown = found[: len(banded.bands)]
    # A band's comment stays in the table: the axis has room for the first words.
    names = [row["title"].split(",")[0] for row in shown]
    svg = plots.paired_bars(
        banded.name, title, names, [row["share"] for row in shown], [band.expected for band in banded.bands]
    )
    words = _in_words((row["title"], row["share"]) for row in shown)
    return Plot(banded.name, f"{title}: {words}", svg)


def _in_words(shares: Iterable[tuple[str, float | None]]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in shares) + "."


def first_sessions(sources: Sources) -> Section:
    """First-session success by the rating of the tutor."""
    banded = reference.FIRST_SESSION
    found = figures.share_by_band(sources.warehouse, banded)
    return Section(
        "First sessions",
        "first-sessions",
        (
            Paragraph(
                "Share of first sessions that the customer rates as a success, by the tutor's rating in all "
                "customers' earlier sessions, as known at the snapshot before the session."
            ),
            _bands(banded, found, None),
            Plots((_band_plot(banded, found, "First-session success, by the tutor's rating"),)),
        ),
    )


def correlations(sources: Sources) -> Section:
    """Pearson's r of the four pairs."""
    rows = []
    for each in reference.CORRELATIONS:
        churn = each.right.startswith("label_churn")
        rows.append(
            (
                f"`{each.left}`",
                f"`{each.right}`",
                number(figures.correlation(sources.warehouse, each.left, each.right)),
                number(figures.correlation(sources.warehouse, each.left, each.right, each.where)),
                number(figures.correlation(sources.warehouse, each.left, each.right, sources.active))
                if churn
                else NOTHING,
                f"≈ {each.expected:g}",
            )
        )
    return Section(
        "Correlations",
        "correlations",
        (
            table(
                ("", "with", "r, everyone", "r, had a session", "r, not yet lapsed", "reference"),
                "llrrrr",
                rows,
            ),
            Paragraph(
                "Before a first session, days since the last one is the placeholder 999 and tutor "
                "consistency is 0; Pearson's r over everyone takes them for real. The third figure leaves "
                "these records out where such a column is concerned."
            ),
        ),
    )


def quality_checks(sources: Sources) -> Section:
    """Every check with its counts, and the range of every feature."""
    return Section(
        "Quality checks",
        "checks",
        (
            table(
                ("check", "result", "counted", "", "failing", "remark"),
                "llrlrl",
                [
                    (
                        check.name,
                        check.result,
                        count(check.counted),
                        check.unit,
                        count(check.failing),
                        check.remark or NOTHING,
                    )
                    for check in sources.checks
                ],
            ),
            Paragraph(
                f"`{quality.BROKEN}` would be a defect; `{quality.DIFFERS}` says that these customers are "
                "not the reference's. The labels are computed a second time in plain Python from the "
                "accepted rows, for customers drawn by a hash of their id, all snapshots of each; that rows "
                "are accepted or rejected rightly is not checked here but by the tests, against a second "
                "implementation of the whole contract."
            ),
            Heading("Range of every feature"),
            Paragraph(
                "Over every snapshot. The plausible range follows from the feature's unit "
                "(`dbt_project.yml`), and a dbt test holds every build to it."
            ),
            table(
                ("feature", "plausible from", "to", "least", "greatest", "nulls", "outside"),
                "lrrrrrr",
                [
                    (
                        f"`{each.feature}`",
                        value(each.least),
                        value(each.greatest),
                        value(each.minimum),
                        value(each.maximum),
                        count(each.nulls),
                        count(each.outside),
                    )
                    for each in sources.ranges
                ],
            ),
        ),
    )


# ----------------------------------------------------------------------------------------------------------
# Models
# ----------------------------------------------------------------------------------------------------------


def _specs(sources: Sources) -> list[ModelSpec]:
    return [spec for spec in SPECS if sources.release is None or spec.name in sources.release.models]


def _figure(source: Mapping[str, Any] | None, population: str, name: str, digits: int = 3) -> str:
    return number(((source or {}).get(population) or {}).get(name), digits)


def _expected(expected: QualityReference) -> str:
    return f"{_FIGURE_TITLES[expected.figure]} {number(expected.low)}–{number(expected.high)}"


def model_quality(sources: Sources) -> Section:
    """Headline figures beside the reference, then everything, then curves."""
    specs = _specs(sources)
    release = sources.release
    headline = []
    for spec in specs:
        expected = REFERENCES[spec.name]
        held_out = release.models[spec.name].held_out if release else {}
        populations = [EVERYONE] if spec.only_before_first_session else [EVERYONE, NOT_YET_LAPSED]
        for population in populations:
            headline.append(
                (
                    _MODEL_TITLES[spec.name] if population == EVERYONE else "",
                    _FIGURE_TITLES[expected.figure],
                    _POPULATION_NAMES[population],
                    _figure(held_out, population, "rows", 0),
                    _figure(held_out, population, expected.figure),
                    _figure(held_out.get("baseline"), population, expected.figure),
                    _figure(held_out.get("best_possible"), population, expected.figure),
                    f"{number(expected.low)}–{number(expected.high)}",
                    _verdict(
                        expected.figure, (held_out.get(population) or {}).get(expected.figure), expected
                    ),
                )
            )
    head = ("model", "figure", "population", "rows", MODEL, BASELINE, BEST, "reference", "")
    blocks: list[Block] = []
    if sources.judged is None or release is None:
        blocks += [Paragraph(NO_MODEL), table(head, "lllrrrrrl", headline)]
        return Section("What can be predicted, and how well", "models", tuple(blocks))
    blocks += [
        Paragraph(
            f"Champion {release.model_version}. All of this is on held-out rows: customers whom no model has "
            "ever seen, in weeks that begin after the last label that the model learned from was known. The "
            "reference does not say on which rows its figures were measured."
        ),
        table(head, "lllrrrrrl", headline),
        Bullets(
            tuple(
                f"{_MODEL_TITLES[spec.name]}: naive baseline is {held_out['described']}."
                for spec in specs
                if (held_out := release.models[spec.name].held_out.get("baseline") or {}).get("described")
            )
        ),
        Paragraph(
            "Best possible is what the simulator's true probabilities reach on the same rows; who sees the "
            "tables alone can hardly do better."
            if sources.has_truth
            else "The best possible is not known on these data: there is no simulator's truth."
        ),
        _verification(sources.judged),
        Heading("The held-out rows"),
        _held_out_rows(sources),
        Heading("All figures"),
        *(_all_figures(sources, kind) for kind in _SHOWN_FIGURES),
        Heading("Curves"),
        Paragraph(
            "Precision and recall at every threshold; calibration in ten groups of equal count, where points "
            "on the grey diagonal are probabilities that can be taken at their word."
        ),
        Plots(tuple(_curve_plots(sources.judged))),
    ]
    return Section("What can be predicted, and how well", "models", tuple(blocks))


def _held_out_rows(sources: Sources) -> Table:
    rows = []
    for spec in _specs(sources):
        blocks = sources.release.models[spec.name].held_out.get("blocks") or {}
        weeks = [
            f"{block['first_snapshot']} to {block['last_snapshot']}"
            if (block := blocks.get(name))
            else NOTHING
            for name in ("fit", "choose", "report")
        ]
        held_out = blocks.get("report") or {}
        rows.append(
            (_MODEL_TITLES[spec.name], *weeks, count(held_out.get("rows")), count(held_out.get("customers")))
        )
    return table(
        (
            "model",
            "weeks to fit on",
            "weeks to choose with",
            "held-out weeks",
            "held-out rows",
            "their customers",
        ),
        "llllrr",
        rows,
    )


def _verdict(figure: str, reached: float | None, expected: QualityReference) -> str:
    if reached is None:
        return NOTHING
    if expected.low <= reached <= expected.high:
        return "inside"
    return "better" if (reached > expected.high) == (figure in MORE_IS_BETTER) else "worse"


def _verification(judged: Judged) -> Paragraph:
    verified = sum(each.verified for each in judged.models.values())
    differing = [f"{name}.{figure}" for name, each in judged.models.items() for figure in each.differing]
    text = (
        "The held-out rows were made again from this warehouse and predicted again for this report: "
        f"{verified} of {verified + len(differing)} released figures came out equal."
    )
    if differing:
        shown = ", ".join(f"`{name}`" for name in differing[:5]) + (" and more" if len(differing) > 5 else "")
        text += (
            f" These did not: {shown}. Labels may change when late rows arrive after the training; the "
            "tables show the released figures, the curves those of today."
        )
    for name, reason in judged.missing.items():
        text += f" No curves of {name}: {reason.rstrip('.')}."
    return Paragraph(text)


def _all_figures(sources: Sources, kind: str) -> Table:
    shown = _SHOWN_FIGURES[kind]
    rows = []
    for spec in _specs(sources):
        if spec.kind != kind or sources.release is None:
            continue
        held_out = sources.release.models[spec.name].held_out
        populations = [EVERYONE] if spec.only_before_first_session else [EVERYONE, NOT_YET_LAPSED]
        for population in populations:
            lines = (
                (MODEL, held_out),
                (BASELINE, held_out.get("baseline")),
                (BEST, held_out.get("best_possible")),
            )
            for by, source in lines:
                if by == BEST and not source:
                    continue
                rows.append(
                    (
                        _MODEL_TITLES[spec.name] if by == MODEL else "",
                        _POPULATION_NAMES[population] if by == MODEL else "",
                        by,
                        *(_figure(source, population, name) for name in shown),
                        _expected(REFERENCES[spec.name]) if by == MODEL and population == EVERYONE else "",
                    )
                )
    header = ("model", "population", "by", *(_FIGURE_TITLES[name] for name in shown), "reference")
    return table(header, "lll" + "r" * (len(shown) + 1), rows)


def _curve_plots(judged: Judged) -> Iterable[Plot]:
    for name, held_out in judged.models.items():
        title = _MODEL_TITLES[name]
        for population in held_out.populations:
            place = f"{name}-{population}".replace("_", "-")
            who = f"{title}, {_POPULATION_NAMES[population]}"
            who = title if len(held_out.populations) == 1 else who
            if held_out.spec.kind == "amount":
                lines = models.deciles(held_out, population)
                yield Plot(
                    f"deciles-{place}",
                    f"What happened by what was predicted, in ten groups: {who}.",
                    plots.amounts(f"deciles-{place}", f"In ten groups: {who}", lines, _MODEL_UNITS[name]),
                )
                continue
            yield Plot(
                f"precision-recall-{place}",
                f"Precision by recall: {who}.",
                plots.curves(
                    f"precision-recall-{place}",
                    who[0].upper() + who[1:],
                    models.precision_recall(held_out, population),
                    "recall",
                    "precision",
                ),
            )
            yield Plot(
                f"calibration-{place}",
                f"Share that came true by predicted probability: {who}.",
                plots.curves(
                    f"calibration-{place}",
                    f"Calibration: {who}",
                    models.calibration(held_out, population),
                    "predicted",
                    "came true",
                    diagonal=True,
                    marked=True,
                ),
            )


def lift_and_gain(sources: Sources) -> Section:
    """How much of the churn the customers with the highest risk hold."""
    if sources.judged is None:
        return Section("Lift and gain", "lift", (Paragraph(NO_MODEL),))
    rows, images = [], []
    for name in ("churn_risk_30d", "churn_risk_14d"):
        held_out = sources.judged.models.get(name)
        if held_out is None:
            continue
        for population in held_out.populations:
            rows += _lift_rows(held_out, population)
            who = f"{_MODEL_TITLES[name]}, {_POPULATION_NAMES[population]}"
            place = f"gain-{name}-{population}".replace("_", "-")
            images.append(
                Plot(
                    place,
                    f"Share of all churn found by share of customers called: {who}.",
                    plots.curves(
                        place,
                        f"Gain: {who}",
                        models.gain(held_out, population),
                        "customers called, highest risk first",
                        "churn found",
                        diagonal=True,
                    ),
                )
            )
    return Section(
        "Lift and gain",
        "lift",
        (
            Paragraph(
                "If only a share of the customers can be called, those with the highest risk first: which "
                "share of all who churn is among them (gain), and how many times as many as among as many "
                "customers drawn blindly (lift)."
            ),
            table(
                (
                    "model",
                    "population",
                    "customers called",
                    "gain",
                    "lift",
                    f"gain, {BASELINE}",
                    f"lift, {BASELINE}",
                    f"gain, {BEST}",
                    f"lift, {BEST}",
                ),
                "llrrrrrrr",
                rows,
            ),
            Plots(tuple(images)),
        ),
    )


def _lift_rows(held_out: HeldOut, population: str) -> list[tuple[str, ...]]:
    rows = []
    for row in models.lift(held_out, population):
        first = row["share"] == models.LIFT_SHARES[0]
        cells = []
        for by in (MODEL, BASELINE, BEST):
            gain = row.get(by)
            cells += [percent(gain), number(None if gain is None else gain / row["share"])]
        rows.append(
            (
                _MODEL_TITLES[held_out.spec.name] if first else "",
                _POPULATION_NAMES[population] if first else "",
                percent(row["share"], 0),
                *cells,
            )
        )
    return rows


_SHOWN_FEATURES = 20


def feature_importance(sources: Sources) -> Section:
    """Gain and mean |SHAP| beside the expected ten."""
    if sources.judged is None or CHURN not in sources.judged.release.models:
        rows = [(f"`{name}`", count(rank), *[NOTHING] * 5) for rank, name in _ranked_expected()]
        expected = table(_EXPECTED_HEADER, "lrrrrrr", rows)
        return Section("Which features matter", "features", (Paragraph(NO_MODEL), expected))
    found, sampled = models.feature_importance(sources.judged)
    by_gain = {
        each.name: rank
        for rank, each in enumerate(sorted(found, key=lambda each: (-each.gain, each.name)), 1)
    }
    by_shap = {each.name: rank for rank, each in enumerate(found, 1)}
    named = {each.name: each for each in found}
    first = [each for each in found if each.shap > 0 or each.gain > 0][:_SHOWN_FEATURES]
    hits = sum(
        each.name in reference.IMPORTANT_FEATURES for each in found[: len(reference.IMPORTANT_FEATURES)]
    )
    expected_rows = []
    for rank, name in _ranked_expected():
        each = named.get(name)
        expected_rows.append(
            (
                f"`{name}`",
                count(rank),
                count(by_shap.get(name)),
                count(by_gain.get(name)),
                count(
                    min(
                        (rank for other, rank in by_shap.items() if _kind(other) == _kind(name)), default=None
                    )
                ),
                number(each.shap if each else None, 3),
                percent(each.gain if each else None),
            )
        )
    svg = plots.importances(
        "importance", "Features of the 30-day churn risk", first[:15], reference.IMPORTANT_FEATURES
    )
    return Section(
        "Which features matter",
        "features",
        (
            Paragraph(
                "Of the 30-day churn model. Gain is a feature's share of what the trees' splits gained in "
                f"training; mean |SHAP| is how far it moves a prediction, in log-odds, over {count(sampled)} "
                f"held-out rows. Among the first ten by mean |SHAP| are {hits} of the expected ten."
            ),
            Heading("The expected ten"),
            table(_EXPECTED_HEADER, "lrrrrrr", expected_rows),
            Heading("What the model found"),
            Plots(
                (
                    Plot(
                        "importance",
                        "Mean |SHAP| of the first features: "
                        + ", ".join(each.name for each in first[:15])
                        + ".",
                        svg,
                    ),
                )
            ),
            table(
                ("rank", "feature", "mean |SHAP|", "share of gain", "rank by gain", "expected"),
                "rlrrrr",
                [
                    (
                        count(rank),
                        f"`{each.name}`",
                        number(each.shap, 3),
                        percent(each.gain),
                        count(by_gain[each.name]),
                        count(_expected_rank(each.name)),
                    )
                    for rank, each in enumerate(first, 1)
                ],
            ),
            Paragraph(
                "Features that say nearly the same share their importance among them: sessions counted over "
                "7, 14 and 30 days, the same as weekly frequencies, active days. That such a group matters "
                "is a finding; which of its members leads is mostly chance."
            ),
        ),
    )


_EXPECTED_HEADER = (
    "feature",
    "expected rank",
    "rank by |SHAP|",
    "rank by gain",
    "best rank of any window",
    "mean |SHAP|",
    "share of gain",
)


def _kind(name: str) -> str:
    """A feature without its window: what is counted, whatever the number of days."""
    return re.sub(r"_\d+d$", "", name)


def _ranked_expected() -> Iterable[tuple[int, str]]:
    return enumerate(reference.IMPORTANT_FEATURES, 1)


def _expected_rank(name: str) -> int | None:
    return {feature: rank for rank, feature in _ranked_expected()}.get(name)


def stability(sources: Sources) -> Section:
    """The 30-day churn model by month, signup cohort and subject."""
    if sources.judged is None:
        return Section("Stability", "stability", (Paragraph(NO_MODEL),))
    months = models.stability_by_month(sources.judged)
    subjects = figures.code_names(sources.warehouse).get("primary_subject", {})
    blocks: list[Block] = [
        Paragraph(
            f"The 30-day churn model, group by group. A group of fewer than {models.LEAST_GROUP} rows gets "
            "no figures; one of a few hundred rows, a few dozen customers, still moves by chance."
        ),
        Heading("By month"),
        Paragraph(
            "Customers whom no model has seen, in every month. The last column says whether the month's "
            "weeks are also later than anything learned from; those before show the seasons, not the future."
        ),
    ]
    if months:
        plot = plots.by_month("auc-by-month", "AUC on unseen customers, by month", months)
        blocks.append(
            Plots(
                (
                    Plot(
                        "auc-by-month",
                        "AUC on unseen customers by month; shaded: months with held-out weeks.",
                        plot,
                    ),
                )
            )
        )
    blocks += [
        _groups("month", months, "later than training"),
        Heading("By quarter of signup"),
        Paragraph("Held-out rows: later weeks of unseen customers."),
        _groups("signup", models.stability_by_cohort(sources.judged)),
        Heading("By primary subject"),
        _groups("subject", models.stability_by_subject(sources.judged, subjects)),
    ]
    return Section("Stability", "stability", tuple(blocks))


def _groups(first: str, groups: Sequence[models.Group], note: str | None = None) -> Table:
    header = (first, "rows", "churned", "predicted", "AUC, everyone", "AUC, not yet lapsed")
    rows = [
        (
            group.name,
            count(group.rows),
            percent(group.happened),
            percent(group.predicted),
            number(group.auc, 3),
            number(group.auc_not_yet_lapsed, 3),
            *([group.note] if note else []),
        )
        for group in groups
    ]
    return table((*header, *([note] if note else [])), "lrrrrr" + ("l" if note else ""), rows)


# ----------------------------------------------------------------------------------------------------------
# Beyond the reference
# ----------------------------------------------------------------------------------------------------------


def market(sources: Sources) -> Section:
    """What the reference named as its gaps: seasons, cohorts, supply and demand."""
    weeks = figures.weekly_activity(sources.warehouse)
    blocks: list[Block] = [
        Paragraph(
            "The reference names three gaps: no market-wide supply and demand, no cohort patterns, no "
            "seasonality. Here they are tables (`marts.market_supply_demand`, `marts.cohort_retention`) and "
            "weekly snapshots."
        )
    ]
    if weeks:
        plot = plots.weekly(
            "weekly-sessions",
            "Sessions by week",
            [row["week_start"] for row in weeks],
            {
                "requested": [float(row["requested"]) for row in weeks],
                "completed": [float(row["completed"]) for row in weeks],
            },
        )
        text = "Sessions requested and completed in each week of the history."
        blocks.append(Plots((Plot("weekly-sessions", text, plot),)))
    blocks += [
        Heading("Signup cohorts: share still active"),
        table(
            ("signup", "customers", *(f"after {_months(month)}" for month in figures.COHORT_MONTHS)),
            "lr" + "r" * len(figures.COHORT_MONTHS),
            [
                (
                    f"{row['quarter'].year} Q{(row['quarter'].month + 2) // 3}",
                    count(row["customers"]),
                    *(percent(row[f"month_{month}"]) for month in figures.COHORT_MONTHS),
                )
                for row in figures.cohorts(sources.warehouse)
            ],
        ),
        Heading("Supply and demand, last twelve weeks"),
        table(
            ("subject", "hours offered", "sessions requested", "completed", "utilisation"),
            "lrrrr",
            [
                (
                    str(row["subject"]).replace("_", " "),
                    count(row["available_hours"]),
                    count(row["requested"]),
                    count(row["completed"]),
                    percent(row["utilisation"]),
                )
                for row in figures.supply_and_demand(sources.warehouse)
            ],
        ),
    ]
    return Section("Market, cohorts and seasons", "market", tuple(blocks))


def _months(months: int) -> str:
    return "1 month" if months == 1 else f"{months} months"


def limits(sources: Sources) -> Section:
    """What the figures cannot say, and where the reference disagrees with the definitions."""
    blocks: list[Block] = [
        Heading("Where the reference disagrees with the definitions"),
        Bullets(tuple(_disagreements(sources))),
        Paragraph(
            "The reference's own averages put into the health index (weights of "
            "`seeds/health_score_weights.csv`), beside the health score that it gives:"
        ),
        _reference_index(sources),
        Heading("What these figures cannot say"),
        Bullets(tuple(_cannot(sources))),
    ]
    return Section("Limits", "limits", tuple(blocks))


def _disagreements(sources: Sources) -> Iterable[str]:
    churned = figures.one(
        sources.warehouse,
        "select avg(label_churn_risk_14d) as share from report_rows where segment = 'churned'",
    )["share"]
    calls = figures.one(
        sources.warehouse,
        f"""
        select avg(cast(not ({sources.active}) as integer)) as share
        from report_rows
        where ib_call_count_14d = 0
        """,
    )["share"]
    segment, label = reference.SEGMENT_SHARES["churned"], reference.LABELS["label_churn_risk_14d"]
    yield (
        f"High churn risk within 14 days ({percent(label)}) is given as no more than the share of the "
        f"churned segment ({percent(segment)}). By definition nearly everyone in that segment has the label "
        f"(here {percent(churned)} of them), and those who are about to leave come on top, so both figures "
        "cannot hold at once."
    )
    bands = ", ".join(band.words for band in reference.INBOUND_CALLS.bands)
    yield (
        f"Churn by inbound calls ({bands}) repeats the figures of the segments thriving, healthy and "
        f"at-risk. Who has left does not call any more: here {percent(calls)} of the records without a call "
        "have lapsed already, and count as churned although nobody called. The tables above therefore show "
        "those not yet lapsed as well."
    )
    yield (
        "The simulator is calibrated towards the reference by how customers behave, never by writing a "
        "feature or a label; where a figure stays off, that is how near this behaviour comes."
        if sources.has_truth
        else "The reference describes another marketplace: its figures are a comparison here, not a goal."
    )
    yield "`docs/decisions.md` says how each definition is read where the specification leaves room."


def _reference_index(sources: Sources) -> Table:
    weights = {
        part: (weight, full_scale)
        for part, weight, full_scale in sources.warehouse.execute(
            "select part, weight, full_scale from reference.health_score_weights"
        ).fetchall()
    }
    expected = {each.column: each.expected for each in reference.SEGMENT_FIGURES}

    def part(name: str, scaled: float) -> float:
        return weights[name][0] * min(1.0, max(0.0, scaled))

    rows = []
    for place, segment in enumerate(reference.SEGMENTS):
        own = {column: values[place] for column, values in expected.items()}
        index = (
            part("engagement", own["session_frequency_30d"] / weights["engagement"][1])
            + part("recency", 1 - own["days_since_last_session"] / weights["recency"][1])
            + part("satisfaction", (own["avg_rating_30d"] - 1) / weights["satisfaction"][1])
            + part("payment", own["payment_success_rate_30d"])
            + part("support", 1 - own["ib_call_count_14d"] / weights["support"][1])
            + part("tutor", own["tutor_consistency_score"])
        )
        rows.append((_SEGMENT_TITLES[segment], number(index, 1), number(own["label_health_score"], 0)))
    return table(("segment", "index of the reference's averages", "reference health score"), "lrr", rows)


def _cannot(sources: Sources) -> Iterable[str]:
    if sources.has_truth:
        yield (
            "The customers are simulated. That the models come near the best possible shows that the "
            "pipeline loses little of what can be known; it says nothing about how predictable real "
            "customers are."
        )
    yield (
        "Records of one customer in neighbouring weeks are nearly copies: the data hold as much as their "
        "customers, not as their records, and figures of small groups vary more than their row counts "
        "suggest."
    )
    held_out = sources.judged.models.get(CHURN) if sources.judged else None
    if held_out is not None:
        block = held_out.plan.blocks.report
        customers = len(set(held_out.examples.customer_ids.tolist()))
        yield (
            f"The held-out block of the churn models covers {count(customers)} customers and the weeks from "
            f"{block.first} to {block.last}: one part of one year. How the model does on unseen customers in "
            "other seasons is under Stability, but there it had seen other customers of the same weeks."
        )
    first = sources.judged.models.get("first_session_success") if sources.judged else None
    if first is not None and len(first.examples):
        always = float(max(first.examples.labels.mean(), 1 - first.examples.labels.mean()))
        accuracy = probability_figures(first.examples.labels, first.predictions[MODEL])["accuracy"]
        margin = 1.96 * (accuracy * (1 - accuracy) / len(first.examples)) ** 0.5
        yield (
            f"First sessions are few: on {count(len(first.examples))} held-out rows an accuracy of "
            f"{number(accuracy, 3)} is known to about ±{number(margin, 3)} only. Always guessing the "
            f"commoner outcome is right in {percent(always)}."
        )
    yield (
        f"A churn label is known {30 + int(sources.variables['lapse_days'])} days after its snapshot, so the "
        "newest weeks are in no figure about outcomes."
    )
    yield (
        "These are associations. That customers with many calls leave more often does not mean that fewer "
        "calls would keep them; whom an intervention helps takes an experiment to learn."
    )


def _points(share: float | None, expected: float) -> str:
    if share is None:
        return NOTHING
    difference = 100 * (share - expected)
    return f"{'+' if difference >= 0.05 else ''}{number(difference, 1)} points"
