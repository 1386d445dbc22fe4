"""The report: its figures against pandas, its references, its files, and warehouses that lack things."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import dbt_build
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.catalog import load_catalog
from report import content, figures, labels_again, models, quality, reference, render, sections_data
from report.__main__ import main
from report.document import NOTHING, Paragraph, Table, count, number, percent
from report.figures import ReportError, open_warehouse
from report.names import NO_MODEL
from report.sources import Sources, open_sources
from scoring.release import read_champion
from simulator.__main__ import main as simulate
from simulator.calibration import REFERENCE
from training import fit
from training.dataset import data_end_of
from training.models import SPECS
from training.run import Settings, train
from training.split import REPORT, customer_groups, customer_hashes

CATALOG = load_catalog()

# Every figure of the reference, by the section that shows it.
EXPECTED = {
    "files": ["7,000", "1,500", "10,000", *reference.EXPORTED_RECORDS],
    "segments": [
        *("29.3 %", "40.0 %", "20.5 %", "10.3 %"),
        *("2.94", "1.19", "0.16", "0.00", "4.29", "4.25", "3.97", "3.01", "19", "40"),
        *("99.9 %", "90.6 %", "85.9 %", "57.6 %", "95 %", "79.1 %", "17.7 %"),
        *("8 %", "20 %", "65 %", "94", "63", "53", "6"),
    ],
    "labels": ["67.5 %", "10.3 %", "30.7 %", "66.2", "1.44"],
    "churn": ["8 %", "20 %", "65 % and up", "low", "medium", "high", "critical", "stable", "some issues"],
    "first-sessions": ["85 %", "68 %", "45 %"],
    "correlations": ["≈ 0.7", "≈ 0.8", "≈ 0.6", "≈ 0.5"],
    "features": [
        *("ib_call_count_14d", "days_since_last_session", "session_velocity_change", "avg_rating_7d"),
        *("payment_success_rate_30d", "tutor_consistency_score", "session_frequency_7d"),
        *("cancellation_rate_30d", "negative_calls_14d", "engagement_trend"),
    ],
    "models": ["0.85–0.92", "8.00–12.00", "0.20–0.30", "0.80–0.85"],
}


@dataclass(frozen=True)
class Made:
    """A small marketplace, before and after training."""

    folder: Path

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    @property
    def untrained(self) -> Path:
        return self.folder / "untrained.duckdb"

    @property
    def trained(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def models(self) -> Path:
        return self.folder / "models"


@pytest.fixture(scope="session")
def made(made_once) -> Made:
    return Made(made_once("report", _make))


def _make(folder: Path) -> None:
    made = Made(folder)
    days = ("--start=2024-07-01", "--end=2026-07-01")
    assert (
        simulate(["--customers=600", "--seed=5", *days, f"--out={made.raw}", "--no-report", "--quiet"]) == 0
    )
    without_tests = ("--exclude-resource-type", "test", "--exclude-resource-type", "unit_test")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MODELS_DIR", str(made.models))
        # Good models take longer, and nothing here asks how good they are.
        patched.setattr(fit, "MOST_TREES", 60)
        dbt_build(made.raw, folder, select=["*"], options=without_tests)
        shutil.copy(made.trained, made.untrained)
        with duckdb.connect(str(made.trained), read_only=True) as warehouse:
            train(
                warehouse,
                models.features_of(warehouse),
                [feature.name for feature in CATALOG.features if feature.categorical],
                Settings(
                    as_of=data_end_of(warehouse),
                    trained_at=datetime(2026, 7, 1),
                    seed=1,
                    models_dir=made.models,
                    raw_dir=made.raw,
                    tracking_uri=f"sqlite:///{folder}/mlflow.db",
                    artifact_root=folder / "artifacts",
                    threads=1,
                ),
            )
        scored = ["model_versions", "customer_predictions"]
        dbt_build(made.raw, folder, warehouse=made.trained, select=scored, options=without_tests)


def files_of(made: Made, warehouse: Path, raw: Path | None = None) -> dict[str, str]:
    with sources_of(made, warehouse, raw) as sources:
        return render.files(content.write(sources, lambda _: None))


def sources_of(made: Made, warehouse: Path, raw: Path | None = None):
    models_dir = made.models if warehouse != made.untrained else made.folder / "none"
    return open_sources(warehouse, models_dir, raw or made.raw, made.folder / "exports", lambda _: None)


@pytest.fixture(scope="module")
def files(made) -> dict[str, str]:
    return files_of(made, made.trained)


@pytest.fixture(scope="module")
def sources(made) -> Iterator[Sources]:
    with sources_of(made, made.trained) as opened:
        yield opened


@pytest.fixture(scope="module")
def frame(made) -> pd.DataFrame:
    """What the figures are about, put together without the report's own SQL."""
    with duckdb.connect(str(made.trained), read_only=True) as warehouse:
        labels = warehouse.sql("select * from labels.customer_labels").df()
        features = warehouse.sql("select * from features.customer_features").df()
    both = labels.merge(features, on=["customer_id", "feature_timestamp"])
    mondays = both[both["feature_timestamp"].dt.dayofweek == 0]
    last = mondays.loc[mondays["label_churn_risk_30d"].notna(), "feature_timestamp"].max()
    weeks = (last - mondays["feature_timestamp"]).dt.days // 7
    return mondays[(weeks >= 0) & (weeks < 52)]


# ----------------------------------------------------------------------------------------------------------
# Reading the two pages
# ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The tables and paragraphs of the HTML page, as texts, by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, list[object]] = {"": []}
        self._section, self._row, self._text, self._svg = "", [], "", 0
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "svg":
            self._svg += 1
        elif tag == "section":
            self._section = dict(attributes)["id"]
            self.sections[self._section] = []
        elif tag == "tr":
            self._row = []
        elif tag in ("td", "th", "p", "li", "h2", "h3"):
            self._text = ""

    def handle_data(self, data: str) -> None:
        if not self._svg:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        found = self.sections[self._section]
        if tag == "svg":
            self._svg -= 1
        elif tag in ("td", "th"):
            self._row.append(self._text)
        elif tag == "tr":
            found.append(self._row)
        elif tag in ("p", "li", "h3") and self._section:
            found.append(self._text)


def markdown_sections(text: str) -> dict[str, list[object]]:
    """The same of the Markdown page, by title."""
    sections: dict[str, list[object]] = {}
    found: list[object] = []
    for line in text.splitlines():
        if line.startswith("## "):
            found = sections.setdefault(line[3:], [])
        elif re.fullmatch(r"\|( -+:? \|)+", line) or not line or line.startswith("!["):
            continue
        elif line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append([plain(cell.strip()) for cell in cells])
        else:
            found.append(plain(re.sub(r"^(\* |### )", "", line)))
    return sections


def plain(markdown: str) -> str:
    return re.sub(r"\\(.)", r"\1", markdown).replace("`", "")


def words(blocks: list[object]) -> set[str]:
    cells = [cell for block in blocks for cell in (block if isinstance(block, list) else [block])]
    return {cell.strip() for cell in cells}


# ----------------------------------------------------------------------------------------------------------
# The two pages
# ----------------------------------------------------------------------------------------------------------


def test_every_reference_figure_is_on_both_pages(files):
    page, markdown = Page(files["report.html"]), markdown_sections(files["report.md"])
    titles = re.findall(r'<section id="([^"]+)">\s*<h2>([^<]+)</h2>', files["report.html"])
    titles = {anchor: html.unescape(title) for anchor, title in titles}
    for anchor, expected in EXPECTED.items():
        for shown in (words(page.sections[anchor]), words(markdown[titles[anchor]])):
            assert [figure for figure in expected if figure not in shown] == [], anchor


def test_both_pages_say_the_same(files):
    page, markdown = Page(files["report.html"]), markdown_sections(files["report.md"])
    page.sections.pop("")
    assert len(page.sections) == len(markdown) == len(content.sections())
    for left, right in zip(page.sections.values(), markdown.values(), strict=True):
        assert left == right
    plots = re.findall(r"^!\[.*\]\((.*)\)$", files["report.md"], re.MULTILINE)
    assert plots
    assert set(plots) == {name for name in files if name.endswith(".svg")}
    assert files["report.html"].count("<svg") == len(plots)


def test_both_pages_show_all_features_of_both_customers(files):
    for sections in (Page(files["report.html"]).sections, markdown_sections(files["report.md"])):
        (table,) = (
            [row for row in blocks if isinstance(row, list) and row[0] in CATALOG.names and len(row) == 5]
            for name, blocks in sections.items()
            if name in ("examples", "Two customers in full")
        )
        assert [row[0] for row in table] == list(CATALOG.names)
        assert all(cell != NOTHING for row in table for cell in row)
        assert [row[3] for row in table] == [feature.unit for feature in CATALOG.features]


def test_html_needs_nothing_from_elsewhere(files):
    text = files["report.html"]
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert used
    assert set(used) <= set(ids)


def test_nothing_reads_like_a_program(files):
    for name in ("report.html", "report.md"):
        text = re.sub(r"<svg.*?</svg>", "", files[name], flags=re.DOTALL)
        assert not re.search(r"\b(nan|None|inf|NaN|True|False|null\b(?!,))", text.replace("not null", ""))


def test_equal_data_give_equal_bytes(made, files):
    again = files_of(made, made.trained)
    assert [name for name in files if files[name] != again[name]] == []
    assert list(files) == list(again)


def test_images_are_text_without_clock_or_version(files):
    for name, text in files.items():
        if name.endswith(".svg"):
            assert "<text" in text
            assert "metadata" not in text
            assert "matplotlib v" not in text.lower()


# ----------------------------------------------------------------------------------------------------------
# Figures
# ----------------------------------------------------------------------------------------------------------


def test_period_mix_and_labels_equal_pandas(sources, frame):
    warehouse = sources.warehouse
    period = figures.period(warehouse)
    assert (period["rows"], period["customers"]) == (len(frame), frame["customer_id"].nunique())
    assert period["snapshots"] == frame["feature_timestamp"].nunique() == 52
    shares = frame["segment"].value_counts(normalize=True)
    assert figures.segment_mix(warehouse) == pytest.approx(dict(shares))
    active = frame[frame["days_since_last_session"] < 30]
    for where, rows in (("true", frame), (sources.active, active)):
        found = figures.label_statistics(warehouse, where)
        for label in reference.LABELS:
            expected = rows[label].dropna()
            assert found[label]["rows"] == len(expected)
            if len(expected):
                assert found[label]["mean"] == pytest.approx(expected.mean())


def test_segment_comparison_equals_pandas(sources, frame):
    found = figures.segment_comparison(sources.warehouse)
    grouped = frame[frame["total_sessions_lifetime"] > 0].groupby("segment")
    for column, by_segment in found.items():
        for segment, values in by_segment.items():
            assert values["mean"] == pytest.approx(grouped[column].mean()[segment])
            assert values["median"] == pytest.approx(grouped[column].median()[segment])


BANDS = {
    "inbound-calls": lambda f: [f.ib_call_count_14d == 0, f.ib_call_count_14d == 1, f.ib_call_count_14d > 1],
    "days-since-last-session": lambda f: [
        f.days_since_last_session < 5,
        (f.days_since_last_session >= 5) & (f.days_since_last_session <= 15),
        (f.days_since_last_session > 15) & (f.days_since_last_session <= 25),
        (f.days_since_last_session > 25) & (f.total_sessions_lifetime > 0),
        f.total_sessions_lifetime == 0,
    ],
    "velocity-change": lambda f: [
        f.session_velocity_change > 0.25,
        (f.session_velocity_change.abs() <= 0.25) & (f.session_count_30d > 0),
        (f.session_velocity_change < -0.25) & (f.session_velocity_change > -0.65),
        f.session_velocity_change <= -0.65,
        f.session_count_30d == 0,
    ],
    "tutor-consistency": lambda f: [
        f.tutor_consistency_score > 0.8,
        (f.tutor_consistency_score >= 0.6) & (f.tutor_consistency_score <= 0.8),
        (f.tutor_consistency_score < 0.6) & (f.total_sessions_lifetime > 0),
        f.total_sessions_lifetime == 0,
    ],
    "payment-success": lambda f: [
        f.payment_success_rate_30d > 0.95,
        (f.payment_success_rate_30d >= 0.85) & (f.payment_success_rate_30d <= 0.95),
        f.payment_success_rate_30d < 0.85,
    ],
    "tutor-rating": lambda f: [
        f.primary_tutor_rating > 4.5,
        (f.primary_tutor_rating >= 4) & (f.primary_tutor_rating <= 4.5),
        f.primary_tutor_rating < 4,
    ],
}


@pytest.mark.parametrize(
    "banded", [*reference.CHURN_BY, reference.FIRST_SESSION], ids=lambda banded: banded.name
)
def test_bands_equal_pandas_and_leave_nobody_out(sources, frame, banded):
    for where, rows in (("true", frame), (sources.active, frame[frame["days_since_last_session"] < 30])):
        found = figures.share_by_band(sources.warehouse, banded, where)
        masks = BANDS[banded.name](rows)
        assert len(found) == len(masks)
        for row, mask in zip(found, masks, strict=True):
            expected = rows.loc[mask, banded.label].dropna()
            assert row["rows"] == len(expected)
            assert row["share"] == (pytest.approx(expected.mean()) if len(expected) else None)
        assert sum(row["rows"] for row in found) == rows[banded.label].notna().sum()


def test_a_week_without_any_session_counts_as_none():
    with duckdb.connect() as warehouse:
        warehouse.execute(
            """
            create schema marts; create schema features;
            create table features.customer_features as select timestamp '2026-03-30' as feature_timestamp;
            create table marts.market_supply_demand as
            select week_start, sessions_requested, 1 as sessions_completed from (
                values (date '2026-03-02', 3), ('2026-03-02', 4), ('2026-03-23', 5), ('2026-03-30', 6)
            ) as weeks (week_start, sessions_requested)
            """
        )
        found = figures.weekly_activity(warehouse)
        warehouse.execute("delete from marts.market_supply_demand")
        assert figures.weekly_activity(warehouse) == []
    assert [(f"{row['week_start']}", row["requested"], row["completed"]) for row in found] == [
        ("2026-03-02", 7, 2),
        ("2026-03-09", 0, 0),
        ("2026-03-16", 0, 0),
        ("2026-03-23", 5, 1),
    ]


def test_correlations_equal_pandas(sources, frame):
    for each in reference.CORRELATIONS:
        r = figures.correlation(sources.warehouse, each.left, each.right)
        assert r == pytest.approx(frame[each.left].corr(frame[each.right].astype(float)))
    seen = frame[frame["total_sessions_lifetime"] > 0]
    r = figures.correlation(
        sources.warehouse, "days_since_last_session", "label_churn_risk_30d", "total_sessions_lifetime > 0"
    )
    assert r == pytest.approx(
        seen["days_since_last_session"].corr(seen["label_churn_risk_30d"].astype(float))
    )


def test_examples_are_the_least_distant_from_the_medians(sources, frame):
    columns = [figure.column for figure in reference.SEGMENT_FIGURES]
    seen = frame[frame["total_sessions_lifetime"] > 0]
    for segment in ("thriving", "at_risk"):
        own = seen[
            (seen["segment"] == segment) & (seen["feature_timestamp"] == seen["feature_timestamp"].max())
        ]
        values = own[columns].astype(float)
        distance = ((values - values.median()).abs() / seen[columns].astype(float).std(ddof=0)).sum(axis=1)
        found = figures.example(sources.warehouse, segment, CATALOG.names)
        assert distance.loc[own["customer_id"] == found.customer_id].item() == pytest.approx(distance.min())
        assert (
            found.features
            == own[own["customer_id"] == found.customer_id].iloc[0][list(CATALOG.names)].to_dict()
        )
        assert found.prediction["churn_risk_30d"] >= found.prediction["churn_risk_14d"]


def test_pages_show_what_was_computed(files, sources):
    shown = words(Page(files["report.html"]).sections["segments"])
    assert {percent(share) for share in figures.segment_mix(sources.warehouse).values()} <= shown
    shown = words(Page(files["report.html"]).sections["labels"])
    statistics = figures.label_statistics(sources.warehouse)
    assert percent(statistics["label_churn_risk_30d"]["mean"]) in shown
    assert number(statistics["label_health_score"]["mean"], 1) in shown


def test_raw_files_are_counted(files, made):
    rows = [row for row in Page(files["report.html"]).sections["files"] if isinstance(row, list)]
    found = {row[0]: row for row in rows}
    for table in ("raw_sessions", "raw_customers"):
        paths = list((made.raw / table).glob("*.parquet"))
        assert found[table][1] == count(len(paths))
        assert found[table][2].split()[0] in (
            f"{sum(path.stat().st_size for path in paths) / scale:,.1f}" for scale in (1e3, 1e6)
        )
        with duckdb.connect() as connection:
            versions = connection.execute(f"select count(*) from '{made.raw}/{table}/*.parquet'").fetchall()[
                0
            ][0]
        # A delivery repeated row for row is one version.
        assert 0 < sum(int(cell.replace(",", "")) for cell in found[table][3:]) <= versions


def test_exported_files_are_shown_when_there_are_any(sources, tmp_path, files):
    assert "python -m training export" in files["report.html"]
    entry = {"file": "train.jsonl", "rows": 6_543, "bytes": 12_345_678, "sha256": "ab" * 32}
    other = {"file": "train.parquet", "rows": 1, "bytes": 2, "sha256": "cd" * 32}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [entry, other]}))
    section = sections_data.files_and_sizes(replace(sources, exports_dir=tmp_path))
    rows = [list(row) for block in section.blocks if isinstance(block, Table) for row in block.rows]
    assert ["`train.jsonl`", "6,543", "7,000", "12.3 MB", "abababababab"] in rows
    assert ["`train.parquet`", "1", NOTHING, "0.0 kB", "cdcdcdcdcdcd"] in rows
    assert not any("were not written here" in text for text in paragraphs(section))


def test_labels_and_age_of_exported_files_are_told(sources, tmp_path):
    newest = figures.history(sources.warehouse)["last_snapshot"]
    known = {spec.label: 90 - number for number, spec in enumerate(SPECS)}
    manifest = {
        "files": [{"file": "train.jsonl", "rows": 70, "bytes": 1, "sha256": "ab" * 32}],
        "sizes": {"train": 70, "validation": 15, "test": 15},
        "labels_known": known,
        "data_as_of": f"{newest}T00:00:00",
    }
    shown = {}
    for as_of in (f"{newest}T00:00:00", "2024-01-01T00:00:00"):
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "data_as_of": as_of}))
        shown[as_of] = sections_data.files_and_sizes(replace(sources, exports_dir=tmp_path))
    fresh, stale = shown.values()
    rows = [list(row) for block in fresh.blocks if isinstance(block, Table) for row in block.rows]
    for label, count_ in known.items():
        assert [f"`{label}`", str(count_), str(100 - count_)] in rows
    assert not any("writes them anew" in text for text in paragraphs(fresh))
    assert any(f"as of 2024-01-01 and the warehouse is as of {newest}" in text for text in paragraphs(stale))


def paragraphs(section):
    return [block.text for block in section.blocks if isinstance(block, Paragraph)]


def test_simulator_and_report_share_the_reference():
    assert REFERENCE["churn 30 d by segment"] == "8 / 20 / 65 / 95 %"
    assert REFERENCE["segment thriving"] == percent(reference.SEGMENT_SHARES["thriving"])


# ----------------------------------------------------------------------------------------------------------
# Models
# ----------------------------------------------------------------------------------------------------------


def test_released_figures_come_out_again(made, sources, files):
    judged = sources.judged
    assert set(judged.models) == set(judged.release.models)
    for held_out in judged.models.values():
        assert held_out.differing == ()
        assert held_out.verified > 10
    with duckdb.connect(str(made.trained), read_only=True) as warehouse:
        auc, active = warehouse.execute(
            "select churn_risk_30d_auc, churn_risk_30d_auc_not_yet_lapsed from predictions.model_versions"
        ).fetchall()[0]
    rows = [row for row in Page(files["report.html"]).sections["models"] if isinstance(row, list)]
    at = next(place for place, row in enumerate(rows) if row[0] == "churn within 30 days")
    assert rows[at][4] == number(auc, 3)
    assert rows[at + 1][4] == number(active, 3)


def test_a_figure_that_does_not_come_out_again_is_named(made, sources):
    release = read_champion(made.models)
    altered = release.models["churn_risk_30d"]
    altered = replace(
        altered,
        held_out={**altered.held_out, "everyone": {**altered.held_out["everyone"], "auc": 0.5}},
    )
    release = replace(release, models={**release.models, "churn_risk_30d": altered})
    judged = models.judge(sources.warehouse, release, made.raw)
    assert judged.models["churn_risk_30d"].differing == ("everyone.auc",)
    assert judged.models["health_score"].differing == ()


def test_held_out_rows_are_of_unseen_customers_and_later_weeks(sources):
    held_out = sources.judged.models["churn_risk_30d"]
    blocks = held_out.plan.blocks
    assert held_out.examples.snapshots.min().astype("datetime64[D]") >= blocks.trained_until
    months = models.stability_by_month(sources.judged)
    inside = [month for month in months if month.note != "no"]
    assert inside == months[-len(inside) :]
    known = sources.warehouse.sql(
        """
        select customer_id from labels.customer_labels
        where isodow(feature_timestamp) = 1 and label_churn_risk_30d is not null
        """
    ).df()["customer_id"]
    unseen = known[customer_groups(customer_hashes(known)) == REPORT]
    assert sum(month.rows for month in months) == len(unseen) > len(held_out.examples)
    assert set(held_out.examples.customer_ids) <= set(unseen)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=12).filter(
        lambda rows: any(label for label, _ in rows)
    ),
    st.integers(0, 12),
)
def test_gain_is_what_drawing_one_by_one_finds(rows, called):
    labels = np.array([float(label) for label, _ in rows])
    predictions = np.array([float(prediction) for _, prediction in rows])
    called = min(called, len(rows))
    found, left = 0.0, called
    for value in sorted(set(predictions), reverse=True):
        tied = labels[predictions == value]
        found += tied.mean() * min(left, len(tied))
        left -= min(left, len(tied))
    assert models.captured(labels, predictions, called / len(rows)) == pytest.approx(found / labels.sum())


def test_curves_are_points_of_the_full_curves(sources):
    held_out = sources.judged.models["churn_risk_30d"]
    labels, predictions = held_out.examples.labels, held_out.predictions["model"]
    (model, *_) = models.precision_recall(held_out, "everyone")
    ranked = labels[np.argsort(-predictions, kind="stable")]
    precisions = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    recalls = np.cumsum(ranked) / ranked.sum()
    points = set(zip(recalls.round(9), precisions.round(9), strict=True)) | {(0.0, 1.0)}
    assert set(zip(model.x.round(9), model.y.round(9), strict=True)) <= points
    assert len(model.x) > 20
    (calibrated, *_) = models.calibration(held_out, "everyone")
    sizes = np.array([len(group) for group in np.array_split(labels, len(calibrated.y))])
    assert (calibrated.y * sizes).sum() == pytest.approx(labels.sum())


# ----------------------------------------------------------------------------------------------------------
# Quality checks
# ----------------------------------------------------------------------------------------------------------


def checked(path: Path) -> dict[str, quality.Check]:
    variables = quality.project_variables()
    with open_warehouse(path) as warehouse:
        ranges = quality.feature_ranges(warehouse, CATALOG, variables)
        return {check.name: check for check in quality.checks(warehouse, CATALOG, variables, ranges)}


def changed(made: Made, folder: Path, *statements: str) -> Path:
    path = folder / "changed.duckdb"
    shutil.copy(made.trained, path)
    with duckdb.connect(str(path)) as warehouse:
        for statement in statements:
            warehouse.execute(statement)
    return path


def test_sound_data_pass_every_check(sources):
    assert [check for check in sources.checks if check.result == quality.BROKEN] == []
    recomputed = [check for check in sources.checks if "recomputed" in check.name]
    assert len(recomputed) == len(reference.LABELS)
    assert all(check.counted > 1_000 for check in recomputed)


def test_defects_are_found_and_counted(made, tmp_path):
    with open_warehouse(made.trained) as warehouse:
        customer = labels_again.sampled_customers(warehouse)[0]
    one = f"customer_id = '{customer}' and feature_timestamp = (select min(feature_timestamp) from {{table}} "
    one += f"where customer_id = '{customer}')"
    features = one.format(table="features.customer_features")
    labels = one.format(table="labels.customer_labels")
    broken = checked(
        changed(
            made,
            tmp_path,
            "update features.customer_features set cancellation_rate_7d = 1.5, no_show_rate_7d = null where "
            f"{features}",
            f"update features.customer_features set rating_trend = 'nan' where {features}",
            "update labels.customer_labels set label_churn_risk_14d = 1, label_churn_risk_30d = 0 where "
            f"{labels}",
            "update labels.customer_labels set label_health_score = label_health_score + 0.001 where "
            f"{labels}",
        )
    )
    assert broken["no nulls"].failing == 1
    assert broken["plausible ranges"].failing == 2
    assert broken["plausible ranges"].remark == "cancellation_rate_7d, rating_trend"
    assert broken["churn within 14 days never above churn within 30"].failing == 1
    assert broken["label_health_score recomputed and equal"].failing == 1
    assert broken["label_session_velocity recomputed and equal"].failing == 0
    found = [check.result for check in broken.values()].count(quality.BROKEN)
    assert found >= 4


def test_a_missing_feature_is_named(made, tmp_path):
    path = changed(
        made,
        tmp_path,
        "create table features.less as select * exclude (rating_trend) from features.customer_features",
        "drop table features.customer_features cascade",
        "alter table features.less rename to customer_features",
    )
    check = checked(path)["all 59 features in every record"]
    assert (check.result, check.remark) == (quality.BROKEN, "rating_trend")


# ----------------------------------------------------------------------------------------------------------
# Warehouses that lack something
# ----------------------------------------------------------------------------------------------------------


def test_without_a_model_the_data_part_is_whole(made, files):
    text = files_of(made, made.untrained)["report.html"]
    page, full = Page(text), Page(files["report.html"])
    for anchor in ("segments", "labels", "churn", "first-sessions", "correlations", "checks"):
        assert page.sections[anchor] == full.sections[anchor]
    assert html.escape(NO_MODEL.split("`")[0].strip()) in text
    for anchor in ("models", "features"):
        assert [f for f in EXPECTED[anchor] if f not in words(page.sections[anchor])] == []


def test_without_the_raw_directory_or_the_truth(made, tmp_path, files):
    text = files_of(made, made.trained, raw=tmp_path)["report.html"]
    page = Page(text)
    assert next(row[:3] for row in page.sections["files"] if row[0] == "raw_calls") == [
        "raw_calls",
        NOTHING,
        NOTHING,
    ]
    assert "simulated" not in text
    other = "The reference describes another marketplace than the one that these data come from"
    assert other in text
    assert other not in files["report.html"]
    verdicts = {"inside", "better", "worse"}
    assert verdicts & words(Page(files["report.html"]).sections["models"])
    assert not verdicts & words(page.sections["models"])
    # What was released stands; what needs the truth itself has gone.
    assert "released figures came out equal" in text
    assert page.sections["labels"] == Page(files["report.html"]).sections["labels"]


def test_real_data_may_lack_anything(made, tmp_path):
    path = changed(
        made,
        tmp_path,
        "update labels.customer_labels set label_first_session_success = null",
        "update labels.customer_labels set segment = 'healthy' where segment <> 'churned'",
        "delete from labels.customer_labels where month(feature_timestamp) in (7, 8, 12)",
        "delete from features.customer_features where month(feature_timestamp) in (7, 8, 12)",
        "update features.customer_features set ib_call_count_14d = 0, primary_subject = -1",
    )
    written = files_of(made, path)
    for text in (written["report.html"], written["report.md"]):
        assert not re.search(r"\b(nan|None)\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
        assert "There is no thriving customer on that day." in text
        assert "No record here is of a customer whose first session was rated in time." in text
    assert "tutor-rating.svg" not in written


@pytest.mark.parametrize(
    "statement",
    [
        "update labels.customer_labels set label_churn_risk_14d = null, label_churn_risk_30d = null",
        "update labels.customer_labels set label_churn_risk_14d = 1, label_churn_risk_30d = 1",
        "delete from labels.customer_labels",
    ],
    ids=["no mature label", "one class only", "no labels"],
)
def test_labels_may_say_nothing(made, tmp_path, statement):
    text = files_of(made, changed(made, tmp_path, statement))["report.html"]
    assert not re.search(r"\b(nan|None)\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert NOTHING in text


# ----------------------------------------------------------------------------------------------------------
# Command and files
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(made, monkeypatch):
    monkeypatch.setenv("WAREHOUSE_PATH", str(made.trained))
    monkeypatch.setenv("MODELS_DIR", str(made.models))
    monkeypatch.setenv("RAW_DATA_DIR", str(made.raw))
    return monkeypatch


def test_command_writes_the_files(environment, files, tmp_path):
    output = tmp_path / "deep" / "report"
    assert main(["--output", str(output)]) == 0
    written = {path.name: path.read_text(encoding="utf-8") for path in output.iterdir()}
    assert sorted(written) == sorted(files)
    # data/exports is not part of the fixture, so that section may differ.
    assert written["segments.svg"] == files["segments.svg"]
    assert [path.name for path in output.parent.iterdir()] == ["report"]


def test_no_warehouse_is_one_sentence(environment, tmp_path, capsys):
    environment.setenv("WAREHOUSE_PATH", str(tmp_path / "none.duckdb"))
    assert main(["--output", str(tmp_path / "report")]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"make report: There is no warehouse at {tmp_path}/none.duckdb: run `make run` or `dbt build` first."
    )
    assert not (tmp_path / "report").exists()


def test_an_empty_warehouse_is_one_sentence(environment, tmp_path, capsys):
    duckdb.connect(str(tmp_path / "empty.duckdb")).close()
    environment.setenv("WAREHOUSE_PATH", str(tmp_path / "empty.duckdb"))
    assert main(["--output", str(tmp_path / "report")]) == 1
    error = capsys.readouterr().err
    assert "is not built: run `make run`" in error
    assert "Traceback" not in error


def test_files_come_all_or_not_at_all(tmp_path, monkeypatch):
    output = tmp_path / "report"
    render.write(output, {"report.html": "old", "a.svg": "old"})
    write_text = Path.write_text

    def fails_at_the_second(path: Path, text: str, **options: object) -> int:
        if path.name == "report.md":
            raise OSError(28, "No space left on device")
        return write_text(path, text, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", fails_at_the_second)
        with pytest.raises(ReportError, match="No space left on device"):
            render.write(output, {"report.html": "new", "report.md": "new"})
    rename = Path.replace

    def fails_to_come_in(path: Path, target: Path) -> Path:
        if target == output and (path / "report.md").exists():
            raise OSError(13, "Permission denied")
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fails_to_come_in)
        with pytest.raises(ReportError, match="Permission denied"):
            render.write(output, {"report.html": "new", "report.md": "new"})
    assert {path.name: path.read_text() for path in output.iterdir()} == {
        "report.html": "old",
        "a.svg": "old",
    }
    assert list(tmp_path.iterdir()) == [output]
    render.write(output, {"report.html": "new", "report.md": "new"})
    assert {path.name for path in output.iterdir()} == {"report.html", "report.md"}
    assert list(tmp_path.iterdir()) == [output]


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.docx").write_text("mine")
    with pytest.raises(ReportError, match=r"thesis\.docx"):
        render.write(tmp_path, {"report.html": "new"})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


@given(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=32)), st.integers(0, 4))
def test_numbers_read_as_numbers(value, digits):
    text = number(value, digits)
    if value is None or not np.isfinite(value):
        assert text == NOTHING
    else:
        assert re.fullmatch(r"−?[\d,]+(\.\d+)?", text)
        assert float(text.replace(",", "").replace("−", "-")) == pytest.approx(value, abs=0.51 * 10**-digits)
        assert not re.fullmatch(r"−0(\.0*)?", text)
