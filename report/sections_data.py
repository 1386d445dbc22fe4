"""The sections about the data: each a function from the sources to a Section."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from report import figures, plots, quality, reference
from report.document import (
    NOTHING,
    Block,
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
from report.names import (
    LABEL_TITLES,
    NO_MODEL,
    SEGMENT_TITLES,
)
from report.sources import Sources
from training.models import SPECS


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
        *_exports(sources.exports_dir, figures.history(sources.warehouse)["last_snapshot"]),
    ]
    return Section("Files and sizes", "files", tuple(blocks))


def _total(values: Iterable[int | None]) -> int | None:
    known = [each for each in values if each is not None]
    return sum(known) if known else None


def _exports(directory: Path, last_snapshot: date | None) -> Iterable[Block]:
    manifest = directory / "manifest.json"
    found: Mapping[str, Any] = {}
    entries: dict[str, Mapping[str, Any]] = {}
    if manifest.exists():
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
            entries = {entry["file"]: entry for entry in found["files"]}
        except (ValueError, KeyError, TypeError) as error:
            yield Paragraph(f"The manifest of the training files cannot be read: {error!r}.")
    names = [
        *reference.EXPORTED_RECORDS,
        *(name for name in entries if name not in reference.EXPORTED_RECORDS),
    ]
    yield table(
        ("file", "records", "reference", "size", "SHA-256 (begins)"),
        "lrrrl",
        [
            (
                f"`{name}`",
                count(entries.get(name, {}).get("rows")),
                count(reference.EXPORTED_RECORDS.get(name)),
                size(entries.get(name, {}).get("bytes")),
                str(entries.get(name, {}).get("sha256", NOTHING))[:12],
            )
            for name in names
        ],
    )
    if not entries:
        yield Paragraph(
            "These files were not written here yet: `python -m training export` makes them, one record a "
            "customer."
        )
        return
    as_of = str(found.get("data_as_of", NOTHING))[:10]
    if as_of != str(last_snapshot):
        yield Paragraph(
            f"The files are as of {as_of} and the warehouse is as of {last_snapshot}: `python -m training "
            "export` writes them anew."
        )
    if "labels_known" in found:
        yield from _labels_of_records(found)


def _labels_of_records(manifest: Mapping[str, Any]) -> Iterable[Block]:
    records = sum(manifest["sizes"].values())
    known: Mapping[str, int] = manifest["labels_known"]
    yield Paragraph(
        "One record a customer; features and segment are never null. A label is null where it is not mature, "
        "which is so for customers who signed up in the last weeks. First-session success is null, too, for "
        "who had a session before the snapshot, or no rated first one soon after it."
    )
    yield table(
        ("label", "records that have it", "null"),
        "lrr",
        [
            (f"`{spec.label}`", count(known.get(spec.label)), count(records - known.get(spec.label, 0)))
            for spec in SPECS
        ],
    )


def segments(sources: Sources) -> Section:
    """Mix of the segments, and what customers of each look like."""
    mix = figures.segment_mix(sources.warehouse)
    compared = figures.segment_comparison(sources.warehouse)
    plot = plots.paired_bars(
        "segments",
        "Segments, share of snapshots",
        list(SEGMENT_TITLES.values()),
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
                        SEGMENT_TITLES[name],
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
                        + _in_words((SEGMENT_TITLES[name], mix[name]) for name in reference.SEGMENTS),
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
            table(("figure", "", *SEGMENT_TITLES.values()), "llrrrr", rows),
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
                        LABEL_TITLES[label],
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
    titles = [SEGMENT_TITLES[name] for name in examples]
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
            blocks.append(Paragraph(f"There is no {SEGMENT_TITLES[name]} customer on that day."))

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
    text = (
        "Velocity change is 7 days against 30: who had a session in the last 30 days and none in the last 7 "
        "reads −100 %. Payment success without a payment in 30 days is that of all payments so far"
    )
    without = _without_payment(sources)
    if without is not None:
        text += (
            f": in the band from 85 to 95 %, {percent(without)} of the records have had no successful "
            "payment for 30 days"
        )
    blocks.append(Paragraph(f"{text}."))
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
    shown: Block = Paragraph("No record here is of a customer whose first session was rated in time.")
    if any(row["rows"] for row in found):
        shown = Plots((_band_plot(banded, found, "First-session success, by the tutor's rating"),))
    return Section(
        "First sessions",
        "first-sessions",
        (
            Paragraph(
                "Share of first sessions that the customer rates as a success, by the tutor's rating in all "
                "customers' earlier sessions, as known at the snapshot before the session."
            ),
            _bands(banded, found, None),
            shown,
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


def _points(share: float | None, expected: float) -> str:
    if share is None:
        return NOTHING
    difference = 100 * (share - expected)
    return f"{'+' if difference >= 0.05 else ''}{number(difference, 1)} points"
