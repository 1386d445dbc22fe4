"""How fast rows are scored, by the usual ways and by ours, side by side: `make bench-scoring`.

Every way scores the same rows with the same five models, each in a process of its own, and is measured in
seconds and in that process's peak memory. The rows are those of features.customer_features in random order,
repeated under other customer ids until there are enough. The models are larger than those that training
chooses, 300 to 500 trees of 31 leaves, learned from the labels of the same warehouse. The outcome goes into
docs/scoring.md, with a plot beside it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import lightgbm
import matplotlib
import numpy as np
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track

from benchmarks.measure import Measurement, markdown_table, measure_apart, write_section
from benchmarks.scoring_ways import FEATURES, THREADS, WAYS
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
    "lleaves": "lleaves, array in memory",
    "tl2cgen": "tl2cgen, array in memory",
    "duckdb": "**`predict_customer_health` in DuckDB, table → table**",
    "portable": "portable SQL in DuckDB, table → table",
    "pred_contrib": "Booster.predict(pred_contrib=True), array in memory",
    "duckdb_reasons": "**`explain_churn_risk_30d` in DuckDB, table → table**",
}
# What is compared with each other; ratios are those to the first.
_SCORES = ("booster", "pandas", "lleaves", "tl2cgen", "duckdb", "portable")
_REASONS = ("pred_contrib", "duckdb_reasons")


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
    with tempfile.TemporaryDirectory(prefix="bench-scoring-") as folder:
        prepare(Path(folder), options.rows)
        measured = {
            (way, rows): measure_apart("benchmarks.scoring_ways", [way, folder, str(rows)])
            for way, rows in track(
                [(way, rows) for rows in options.rows for way in options.ways], description="measuring"
            )
        }
        wrong = different_predictions(Path(folder), min(options.rows)) if "duckdb" in options.ways else 0
    if wrong:
        print(f"{wrong} predictions differ from those of Booster.predict.", file=sys.stderr)
        return 1
    text = outcome(measured, options.rows)
    Console(width=160).print(text, markup=False)
    if options.write:
        write_section(repository_root() / _DOCUMENT, "make bench-scoring", text)
        plot(measured, repository_root() / _PLOT)
    return 0


def prepare(folder: Path, sizes: Sequence[int]) -> None:
    """Write the models (`models/`) and a database a size (`rows_<n>.duckdb`) into the folder."""
    with duckdb.connect(str(warehouse_path()), read_only=True) as warehouse:
        write_release(learned_release(warehouse, load_catalog()), folder / "models")
    set_champion(folder / "models", "v1")
    for rows in sizes:
        log.info("writing %s feature rows", f"{rows:,}")
        with duckdb.connect(str(folder / f"rows_{rows}.duckdb")) as target:
            target.execute(f"attach '{warehouse_path()}' as warehouse (read_only)")
            target.execute("create schema features")
            target.execute(
                f"""
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
            )


def learned_release(connection: duckdb.DuckDBPyConnection, catalog: FeatureCatalog) -> Release:
    """Five models of the sizes in TREES, learned from rows of the warehouse."""
    labels = ", ".join(f"labels.{spec.label}" for spec in SPECS)
    columns = connection.execute(
        f"""
        select {", ".join(f"features.{name}" for name in catalog.names)}, {labels}
        from {FEATURES} as features
        inner join labels.customer_labels as labels using (customer_id, feature_timestamp)
        order by {_ANY_ORDER}
        limit {_LEARNING_ROWS}
        """
    ).fetchnumpy()
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


def outcome(measured: Mapping[tuple[str, int], Measurement], sizes: Sequence[int]) -> str:
    """The tables of docs/scoring.md."""
    header = [f"{rows:,} rows: {what}" for rows in sizes for what in ("rows/s", "ratio", "peak")]
    tables = []
    for title, ways in (("five scores a row", _SCORES), ("three reasons a row", _REASONS)):
        lines = [
            [_DESCRIBED[way] + (f" ({remark})" if (remark := measured[way, sizes[-1]].remark) else "")]
            + [cell for rows in sizes for cell in _cells(measured, way, ways[0], rows)]
            for way in ways
            if (way, sizes[0]) in measured
        ]
        if lines:
            tables.append(markdown_table([title, *header], lines))
    return "\n\n".join(tables)


def _cells(
    measured: Mapping[tuple[str, int], Measurement], way: str, base: str, rows: int
) -> tuple[str, str, str]:
    here = measured[way, rows]
    if here.seconds is None:
        return "–", "–", "–"
    # Where the base was too slow for so many rows, its speed is that for fewer.
    base_speeds = [
        size / each.seconds
        for (name, size), each in measured.items()
        if name == base and each.seconds and size <= rows
    ]
    speed = rows / here.seconds
    ratio = f"{speed / base_speeds[-1]:,.2f} ×" if base_speeds else "–"
    return f"{speed:,.0f}", ratio, f"{here.peak_bytes / 2**20:,.0f} MB"


def plot(measured: Mapping[tuple[str, int], Measurement], path: Path) -> None:
    """Bars of rows a second, one group a size, on a logarithmic axis."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    sizes = sorted({rows for _, rows in measured})
    ways = [way for way in _SCORES if (way, sizes[0]) in measured and measured[way, sizes[0]].seconds]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(ways) * len(sizes) / 2 + 1.5), layout="constrained")
    height = 0.8 / len(sizes)
    for number, rows in enumerate(sizes):
        speeds = [rows / (measured[way, rows].seconds or np.nan) for way in ways]
        places = np.arange(len(ways)) + number * height
        axes.barh(
            places,
            speeds,
            height=height * 0.9,
            label=f"{rows:,} rows",
            color=("#9fb8d1", "#1f4e79")[number % 2],
        )
        for place, speed in zip(places, speeds, strict=True):
            axes.annotate(f" {speed:,.0f}", (speed, place), va="center", fontsize=8)
    axes.set_yticks(np.arange(len(ways)) + height * (len(sizes) - 1) / 2)
    axes.set_yticklabels([_DESCRIBED[way].strip("*").replace("`", "") for way in ways])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("rows scored by all five models a second, two threads")
    axes.margins(x=0.15)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
