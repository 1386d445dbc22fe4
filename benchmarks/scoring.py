"""How fast rows are scored, by the usual ways and by ours, side by side: `make bench-scoring`.

Every way scores the same rows with the same five models, each in a process of its own, and is measured in
seconds and in that process's peak memory. There are two kinds of rows, in random order, and models learned
from each, larger than those that training chooses (300 to 500 trees of 31 leaves):

* warehouse: features.customer_features, repeated under other customer ids until there are enough. Families
  are much alike, so a processor that walks the trees guesses most of its jumps right;
* independent: each feature drawn by itself, so that it guesses wrong. Ours never guesses.

The outcome goes into docs/scoring.md, with a plot beside it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import lightgbm
import matplotlib
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track

from benchmarks.measure import THREADS, Measurement, connect, markdown_table, measure_apart, write_section
from benchmarks.scoring_ways import FEATURES, WAYS
from feature_repo.catalog import FeatureCatalog, load_catalog
from feature_repo.paths import repository_root, warehouse_path
from scoring.release import (
    MODEL_NAMES,
    Calibration,
    Release,
    ReleasedModel,
    read_champion,
    set_champion,
    write_release,
)
from training.models import SPECS, ModelSpec

log = logging.getLogger(__name__)

ROWS = (100_000, 1_000_000)
# Trees a model, in the order of the models.
TREES = (300, 400, 500, 400, 300)
_LEARNING_ROWS = 120_000
# Random, but the same each time.
_ANY_ORDER = "hash(customer_id || feature_timestamp::varchar)"
_DOCUMENT = "docs/scoring.md"
_PLOT = "docs/scoring.svg"
_DESCRIBED = {
    "booster": "Booster.predict, array in memory",
    "pandas": "table → pandas → Booster.predict → table",
    "tl2cgen": "tl2cgen, array in memory",
    "duckdb": "**`predict_customer_health` in DuckDB, table → table**",
    "portable": "portable SQL in DuckDB, table → table",
    "pred_contrib": "Booster.predict(pred_contrib=True), array in memory",
    "duckdb_reasons": "**`explain_churn_risk_30d` in DuckDB, table → table**",
}
WAREHOUSE, INDEPENDENT = "warehouse", "independent"


@dataclass(frozen=True)
class Comparison:
    """Ways of the same work on the same kind of rows; ratios are those to the first."""

    title: str
    kind: str
    ways: tuple[str, ...]


_COMPARISONS = (
    Comparison(
        "five scores a row, rows of the warehouse",
        WAREHOUSE,
        ("booster", "pandas", "tl2cgen", "duckdb", "portable"),
    ),
    Comparison("five scores a row, independent features", INDEPENDENT, ("booster", "duckdb")),
    Comparison("three reasons a row, rows of the warehouse", WAREHOUSE, ("pred_contrib", "duckdb_reasons")),
)

# (kind of rows, way, number of rows) → what was measured
Measurements = Mapping[tuple[str, str, int], Measurement]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every way, show the table and write it into docs/scoring.md; exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of rows to score")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=tuple(WAYS), help="what to compare")
    parser.add_argument("--write", action="store_true", help=f"write the outcome into {_DOCUMENT}")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    if not warehouse_path().exists():
        print(f"There is no warehouse at {warehouse_path()}: make it with 'make run'.", file=sys.stderr)
        return 1
    due = [
        (each.kind, way, rows)
        for rows in options.rows
        for each in _COMPARISONS
        for way in each.ways
        if way in options.ways
    ]
    with tempfile.TemporaryDirectory(prefix="bench-scoring-") as directory:
        folder = Path(directory)
        for kind in (WAREHOUSE, INDEPENDENT):
            prepare(folder / kind, kind, options.rows)
        os.sync()  # else these files would still be on their way to the disk while others are measured
        measured = {
            (kind, way, rows): measure_apart("benchmarks.scoring_ways", [way, str(folder / kind), str(rows)])
            for kind, way, rows in track(due, description="measuring")
        }
        if "duckdb" in options.ways:
            for kind in (WAREHOUSE, INDEPENDENT):
                wrong = different_predictions(folder / kind, max(options.rows))
                if wrong:
                    print(f"{wrong} predictions differ from those of Booster.predict.", file=sys.stderr)
                    return 1
    text = outcome(measured, options.rows)
    Console(width=160).print(text, markup=False)
    if options.write:
        write_section(repository_root() / _DOCUMENT, "make bench-scoring", text)
        plot(measured, repository_root() / _PLOT)
    return 0


def prepare(folder: Path, kind: str, sizes: Sequence[int]) -> None:
    """Write the models (`models/`) and a database a size (`rows_<n>.duckdb`) into the folder."""
    folder.mkdir()
    catalog = load_catalog()
    if kind == WAREHOUSE:
        with duckdb.connect(str(warehouse_path()), read_only=True) as warehouse:
            columns = _learning_columns(warehouse, catalog)
    else:
        columns = _independent_columns(_LEARNING_ROWS, catalog)
    write_release(learned_release(columns, catalog), folder / "models")
    set_champion(folder / "models", "v1")
    for rows in sizes:
        log.info("writing %s %s rows", f"{rows:,}", kind)
        with connect(folder / f"rows_{rows}.duckdb") as target:
            target.execute("create schema features")
            typed = [f"{each.name}::{each.data_type} as {each.name}" for each in catalog.features]
            if kind == WAREHOUSE:
                target.execute(f"attach '{warehouse_path()}' as warehouse (read_only)")
                target.execute(_repeated_rows(rows))
            else:
                target.register("independent", pa.table(_independent_columns(rows, catalog)))
                target.execute(
                    f"""
                    create table {FEATURES} as
                    select
                        'c' || row_number() over () as customer_id,
                        timestamp '2026-01-01' as feature_timestamp,
                        {", ".join(typed)}
                    from independent
                    """
                )


def _repeated_rows(rows: int) -> str:
    return f"""
        create table {FEATURES} as
        with numbered as (
            select
                *,
                row_number() over (order by {_ANY_ORDER}) - 1 as place,
                count(*) over () as available
            from warehouse.{FEATURES}
        )
        select
            numbered.customer_id || '-' || copies.number as customer_id,
            numbered.* exclude (customer_id, place, available)
        from numbered
        inner join range({rows}) as copies(number)
            on
                copies.number <= {rows} // numbered.available
                and numbered.place + copies.number * numbered.available < {rows}
        order by {_ANY_ORDER}
    """


def _learning_columns(
    warehouse: duckdb.DuckDBPyConnection, catalog: FeatureCatalog
) -> Mapping[str, np.ndarray]:
    """Features and labels of rows of the warehouse."""
    return warehouse.execute(
        f"""
        select
            {", ".join(f"features.{name}" for name in catalog.names)},
            {", ".join(f"labels.{spec.label}" for spec in SPECS)}
        from {FEATURES} as features
        inner join labels.customer_labels as labels using (customer_id, feature_timestamp)
        order by {_ANY_ORDER}
        limit {_LEARNING_ROWS}
        """
    ).fetchnumpy()


def _independent_columns(rows: int, catalog: FeatureCatalog) -> Mapping[str, np.ndarray]:
    """Features drawn each by itself, and labels that depend on all of them."""
    random = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {}
    scores = np.zeros(rows)
    for feature in catalog.features:
        values = random.normal(size=rows)
        scores += random.normal() * values
        if feature.categorical:
            columns[feature.name] = np.floor(np.abs(values) * 4).astype(np.int32)
        elif feature.data_type == "double":
            columns[feature.name] = values
        else:
            columns[feature.name] = np.floor(np.abs(values) * 20).astype(np.int32)
    for spec in SPECS:
        noisy = scores + random.normal(size=rows) * 3
        columns[spec.label] = (noisy > 0).astype(float) if spec.kind == "probability" else noisy
    return columns


def learned_release(columns: Mapping[str, np.ndarray], catalog: FeatureCatalog) -> Release:
    """Five models of the sizes in TREES, learned from columns of features and labels."""
    moment = datetime(2026, 1, 1)
    return Release(
        model_version="v1",
        trained_at=moment,
        data_as_of=moment,
        trained_until=moment,
        training_rows=_LEARNING_ROWS,
        models={
            spec.name: _learned(spec, trees, columns, catalog)
            for spec, trees in zip(SPECS, TREES, strict=True)
        },
    )


def _learned(
    spec: ModelSpec, trees: int, columns: Mapping[str, np.ndarray], catalog: FeatureCatalog
) -> ReleasedModel:
    log.info("learning %s, %d trees", spec.name, trees)
    features = [each for each in catalog.features if spec.feature_service in each.feature_services]
    names = tuple(each.name for each in features)
    label = np.ma.filled(np.ma.asarray(columns[spec.label]).astype(np.float64), np.nan)
    known = ~np.isnan(label)
    matrix = np.stack([columns[name].astype(np.float64) for name in names], axis=1)[known]
    codes = [index for index, each in enumerate(features) if each.categorical]
    matrix[:, codes] = np.where(matrix[:, codes] < 0, np.nan, matrix[:, codes])
    booster = lightgbm.train(
        {
            "objective": "binary" if spec.kind == "probability" else "regression_l1",
            "num_leaves": 31,
            "learning_rate": 0.05,
            "verbosity": -1,
            "deterministic": True,
            "num_threads": THREADS,
        },
        lightgbm.Dataset(matrix, label[known], feature_name=list(names), categorical_feature=codes),
        trees,
    )
    return ReleasedModel(
        name=spec.name,
        feature_service=spec.feature_service,
        features=names,
        booster_text=booster.model_to_string(),
        calibration=Calibration(1.1, -0.1) if spec.kind == "probability" else None,
        lower=spec.lower,
        upper=spec.upper,
        held_out={},
        origin_version="v1",
    )


def different_predictions(folder: Path, rows: int) -> int:
    """How many rows of the table that DuckDB wrote last differ, in any bit, from Booster.predict."""
    release = read_champion(folder / "models")
    assert release is not None
    names = load_catalog().names
    with duckdb.connect(str(folder / f"rows_{rows}.duckdb"), read_only=True) as connection:
        columns = connection.execute(
            f"""
            select *
            from {FEATURES}
            inner join predictions using (customer_id, feature_timestamp)
            limit 20000
            """
        ).fetchnumpy()
    expected = release.predict(np.stack([columns[name].astype(np.float64) for name in names], axis=1), names)
    differs = [columns[name].view(np.int64) != expected[name].view(np.int64) for name in MODEL_NAMES]
    return int(np.any(differs, axis=0).sum())


def outcome(measured: Measurements, sizes: Sequence[int]) -> str:
    """The tables of docs/scoring.md."""
    header = [f"{rows:,} rows: {what}" for rows in sizes for what in ("rows/s", "ratio", "peak")]
    tables = []
    for each in _COMPARISONS:
        lines = []
        for way in each.ways:
            if (each.kind, way, sizes[-1]) in measured:
                remark = measured[each.kind, way, sizes[-1]].remark
                cells = [cell for rows in sizes for cell in _cells(measured, each, way, rows)]
                lines.append([_DESCRIBED[way] + (f" ({remark})" if remark else ""), *cells])
        if lines:
            tables.append(markdown_table([each.title, *header], lines))
    return "\n\n".join(tables)


def _cells(measured: Measurements, comparison: Comparison, way: str, rows: int) -> tuple[str, str, str]:
    here = measured[comparison.kind, way, rows]
    if here.seconds is None:
        return "–", "–", "–"
    # Where the base was too slow for so many rows, its speed is that for fewer.
    base_speeds = [
        size / each.seconds
        for (kind, name, size), each in measured.items()
        if (kind, name) == (comparison.kind, comparison.ways[0]) and each.seconds and size <= rows
    ]
    speed = rows / here.seconds
    ratio = f"{speed / base_speeds[-1]:,.2f} ×" if base_speeds else "–"
    return f"{speed:,.0f}", ratio, f"{here.peak_bytes / 2**20:,.0f} MB"


def plot(measured: Measurements, path: Path) -> None:
    """Bars of rows a second for the scores, on a logarithmic axis: a panel a kind of rows."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    sizes = sorted({rows for *_, rows in measured})
    height = 0.8 / len(sizes)
    panels = [each for each in _COMPARISONS if "duckdb" in each.ways]
    figure, several = pyplot.subplots(
        len(panels),
        figsize=(8, 6),
        sharex=True,
        layout="constrained",
        height_ratios=[len(each.ways) for each in panels],
    )
    for axes, each in zip(several, panels, strict=True):
        ways = [
            way
            for way in each.ways
            if any((found := measured.get((each.kind, way, rows))) and found.seconds for rows in sizes)
        ]
        for number, rows in enumerate(sizes):
            places = np.arange(len(ways)) + number * height
            speeds = [rows / (measured[each.kind, way, rows].seconds or np.nan) for way in ways]
            color = ("#9fb8d1", "#1f4e79")[number % 2]
            axes.barh(places, speeds, height=height * 0.9, label=f"{rows:,} rows", color=color)
            for place, speed in zip(places, speeds, strict=True):
                axes.annotate(f" {speed:,.0f}", (speed, place), va="center", fontsize=8)
        axes.set_yticks(np.arange(len(ways)) + height * (len(sizes) - 1) / 2)
        axes.set_yticklabels([_DESCRIBED[way].strip("*").replace("`", "") for way in ways], fontsize=8)
        axes.set_title(each.title, loc="left", fontsize=9)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    several[0].legend(frameon=False, fontsize=8)
    several[-1].set_xlabel("rows scored by all five models a second, two threads")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
