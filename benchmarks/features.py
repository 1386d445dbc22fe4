"""What features cost: the full build, nights, and windows by the usual ways: `make bench-features`.

Three parts, each for simulated customers who all sign up within the history:

* full: `dbt build` from the raw files to customer_features without tests, beside features_reference.sql;
* nights: a build of so many days, then so many nights as `make daily` runs them;
* windows: the sums of 7, 14 and 30 days by our models, by range joins, polars and pandas.

Each measurement is one process and is kept in a file as soon as it is made, so that parts and sizes may be
run one by one; the tables of docs/performance.md and the plot are made of all that the file holds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
from rich.console import Console
from rich.logging import RichHandler

from benchmarks import features_windows
from benchmarks.features_builds import Node, nodes_run, query_seconds
from benchmarks.features_report import plot, tables
from benchmarks.measure import Measurement, connect, measure_apart, warehouse_settings, write_section
from feature_repo.files import write_whole
from feature_repo.paths import repository_root

log = logging.getLogger(__name__)

CUSTOMERS = (10_000, 100_000)
# A year of whole weeks, so that the last snapshot is a Monday like the others.
DAYS = 364
# The first snapshot is taken 120 days after the first signup: of 180 days, the last 60 have snapshots.
HISTORIES = (180, 360, 720)
_START = date(2024, 7, 1)
_DOCUMENT = "docs/performance.md"
_PLOT = "docs/performance.svg"
_RESULTS = "data/benchmarks/features.json"
_WITHOUT_TESTS = ("--exclude-resource-type", "test", "unit_test")
_FULL_BUILD = ("build", "--select", "+customer_features", *_WITHOUT_TESTS)

Results = dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for, show the tables and write them into docs/performance.md; exit code 0."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    results: Results = json.loads(options.results.read_text()) if options.results.exists() else {}
    with _folder(options.folder) as folder:
        bench = Bench(folder, results, options)
        for part in options.parts:
            getattr(bench, part)()
    sections = tables(results)
    for text in sections.values():
        Console(width=160).print(text, "", markup=False)
    if options.write:
        for name, text in sections.items():
            write_section(repository_root() / _DOCUMENT, f"make bench-features: {name}", text)
        plot(results, repository_root() / _PLOT)
    wrong = [
        f"{size}: {', '.join(differing)}"
        for size, measured in results.get("windows", {}).items()
        if (differing := measured["differing"])
    ]
    if wrong:
        print(f"Windows differ from those of our models: {'; '.join(wrong)}.", file=sys.stderr)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = ("full", "nights", "windows")
    parser.add_argument(
        "--parts", nargs="*", choices=parts, default=parts, help="what to measure (default: all)"
    )
    parser.add_argument(
        "--customers",
        type=int,
        nargs="+",
        default=CUSTOMERS,
        help="sizes of the full build and of the windows",
    )
    parser.add_argument("--days", type=int, default=DAYS, help="days of history of these")
    parser.add_argument(
        "--signup-days", type=int, help="days in which the customers sign up (default: the history)"
    )
    parser.add_argument("--night-customers", type=int, default=100_000, help="customers of the nights")
    parser.add_argument(
        "--histories", type=int, nargs="+", default=HISTORIES, help="days of history before the nights"
    )
    parser.add_argument("--nights", type=int, default=3, help="nights a history, of which the median counts")
    parser.add_argument("--ways", nargs="+", choices=features_windows.WAYS, default=[*features_windows.WAYS])
    parser.add_argument(
        "--most-window-customers", type=int, default=100_000, help="no windows above this size"
    )
    parser.add_argument(
        "--most-reference-customers", type=int, default=100_000, help="no reference above this size"
    )
    parser.add_argument(
        "--seconds", type=float, default=7200, help="a process that takes longer is stopped (default 7200)"
    )
    parser.add_argument(
        "--folder", type=Path, help="keep simulated data and warehouses here (default: a temporary folder)"
    )
    parser.add_argument(
        "--results", type=Path, default=repository_root() / _RESULTS, help="kept measurements"
    )
    parser.add_argument("--write", action="store_true", help=f"write the outcome into {_DOCUMENT}")
    return parser


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="bench-features-") as folder:
            yield Path(folder)


class Bench:
    """The parts of the benchmark; each adds to the results and keeps them at once."""

    def __init__(self, folder: Path, results: Results, options: argparse.Namespace) -> None:
        self.folder = folder
        self.results = results
        self.options = options

    def full(self) -> None:
        """The full build beside the reference, for every size."""
        for customers in self.options.customers:
            raw = self._raw(customers, self.options.days)
            as_of = _START + timedelta(days=self.options.days)
            log.info("full build of %s customers", f"{customers:,}")
            place = self._built(customers, anew=True)
            reference = place / "reference.duckdb"
            if customers > self.options.most_reference_customers:
                hand_made = Measurement(None, 0, "not run")
            else:
                log.info("reference for %s customers", f"{customers:,}")
                hand_made = self._apart(
                    "benchmarks.features_builds", "reference", str(raw), str(as_of), str(reference)
                )
            build = json.loads((place / "build.json").read_text())
            self._keep(
                "full",
                customers,
                {
                    "days": self.options.days,
                    "signup_days": self.options.signup_days or self.options.days,
                    "raw_rows": _raw_rows(raw),
                    "memory_limit": warehouse_settings()["memory_limit"],
                    **build,
                    "reference": asdict(hand_made),
                    **(_compared(place) if build["seconds"] and hand_made.seconds else {}),
                },
            )
            reference.unlink(missing_ok=True)

    def nights(self) -> None:
        """Nights after histories of different lengths, each with the same number of customers."""
        customers = self.options.night_customers
        for history in self.options.histories:
            everything = self._raw(customers, history + self.options.nights)
            place = self._place(f"nights_{customers}_{history}")
            landed = place / "raw"
            day = _START + timedelta(days=history)
            _land(everything, landed, day)
            log.info("full build of %s customers over %s days", f"{customers:,}", history)
            full = self._dbt(place, landed, *_FULL_BUILD)
            nights = []
            if full["seconds"]:
                # The labels and marts of the history are not the first night's work.
                self._dbt(place, landed, "build", *_WITHOUT_TESTS)
            for _ in range(self.options.nights if full["seconds"] else 0):
                day += timedelta(days=1)
                new_rows = _land(everything, landed, day)
                log.info("night of %s", day)
                night = self._dbt(place, landed, "build")
                nights.append({"new_rows": new_rows, "feature_rows": _snapshot_rows(place, day), **night})
            self._keep(
                "nights",
                f"{customers}/{history}",
                {"customers": customers, "history": history, "full": full, "nights": nights}
                | {
                    "median_queries": median(night["features_seconds"] for night in nights)
                    if nights and all(night["seconds"] for night in nights)
                    else None
                },
            )
            shutil.rmtree(place)

    def windows(self) -> None:
        """The windowed sums by every way, from the warehouse of the full build."""
        for customers in self.options.customers:
            if customers > self.options.most_window_customers:
                continue
            place = self._built(customers)
            facts_seconds = features_windows.prepare(place)
            measured, checksums = {}, {}
            for way in self.options.ways:
                log.info("windows of %s customers by %s", f"{customers:,}", way)
                outcome = self._apart("benchmarks.features_windows", way, str(place))
                measured[way] = asdict(outcome)
                if outcome.seconds:
                    checksums[way] = features_windows.checksum(place, way)
            truth = checksums.get("models", next(iter(checksums.values()), None))
            self._keep(
                "windows",
                customers,
                {
                    "rows": truth[0] if truth else 0,
                    "facts_seconds": facts_seconds,
                    "ways": measured,
                    "differing": [way for way, checksum in checksums.items() if checksum != truth],
                },
            )
            for path in [*place.glob("*.parquet"), *place.glob("made_by_*.duckdb")]:
                path.unlink()

    def _keep(self, part: str, key: int | str, outcome: dict[str, Any]) -> None:
        self.results.setdefault(part, {})[str(key)] = outcome
        write_whole(self.options.results, json.dumps(self.results, indent=1) + "\n")

    def _raw(self, customers: int, days: int) -> Path:
        """Raw files of so many customers and days, simulated once."""
        # All sign up within the history; the simulator wants that to take at least four weeks.
        signup_days = self.options.signup_days or max(days, 28)
        raw = self.folder / f"raw_{customers}_{days}_{signup_days}"
        if not raw.exists():
            log.info("simulating %s customers over %s days", f"{customers:,}", days)
            given = {
                "customers": customers,
                "start": _START,
                "end": _START + timedelta(days=days),
                "signup-days": signup_days,
                "out": raw,
            }
            subprocess.run(
                [sys.executable, "-m", "simulator", "--no-report", "--quiet"]
                + [f"--{name}={value}" for name, value in given.items()],
                check=True,
            )
        return raw

    def _built(self, customers: int, anew: bool = False) -> Path:
        """The place of a full build: warehouse.duckdb, target, and what was measured in build.json."""
        raw = self._raw(customers, self.options.days)
        place = self.folder / raw.name.replace("raw", "full")
        if anew or not (place / "build.json").exists():
            place = self._place(place.name)
            build = self._dbt(place, raw, *_FULL_BUILD)
            if build["seconds"]:
                with duckdb.connect(str(place / features_windows.WAREHOUSE), read_only=True) as connection:
                    build["feature_rows"] = _count(connection, "features.customer_features")
            (place / "build.json").write_text(json.dumps(build))
        return place

    def _place(self, name: str) -> Path:
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def _dbt(self, place: Path, raw: Path, *arguments: str) -> dict[str, Any]:
        environment = {
            "DBT_PROFILES_DIR": str(repository_root()),
            "DBT_PROJECT_DIR": str(repository_root()),
            "DBT_TARGET_PATH": str(place / "target"),
            "DBT_LOG_PATH": str(place / "logs"),
            "WAREHOUSE_PATH": str(place / features_windows.WAREHOUSE),
            "RAW_DATA_DIR": str(raw),
            "FEATURE_EXPORT_DIR": str(place / "features"),
            "MODELS_DIR": str(place / "models"),
        }
        measured = self._apart("benchmarks.features_builds", "dbt", *arguments, environment=environment)
        return asdict(measured) | (_times(nodes_run(place / "target")) if measured.seconds else {})

    def _apart(self, module: str, *arguments: str, environment: dict[str, str] | None = None) -> Measurement:
        return measure_apart(module, arguments, environment=environment, seconds_allowed=self.options.seconds)


def _times(nodes: Sequence[Node]) -> dict[str, Any]:
    groups = sorted({node.group for node in nodes})
    return {
        "queries_seconds": query_seconds(nodes),
        **{
            f"{group}_seconds": query_seconds([node for node in nodes if node.group == group])
            for group in groups
        },
        "slowest": {
            node.name: round(node.seconds, 3)
            for node in sorted(nodes, key=lambda node: -node.seconds)
            if node.group == "features"
        },
    }


def _land(everything: Path, landed: Path, day: date) -> int:
    """Link the files of the loads up to a day; the rows that are new."""
    new = []
    for source in sorted(everything.glob("raw_*/*.parquet")):
        target = landed / source.parent.name / source.name
        if source.stem <= str(day) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
            new.append(source)
    return sum(_parquet_rows(path) for path in new)


def _parquet_rows(pattern: Path) -> int:
    answer = duckdb.execute(f"select sum(num_rows) from parquet_file_metadata('{pattern}')").fetchone()
    return answer[0] if answer else 0


def _raw_rows(raw: Path) -> int:
    return sum(_parquet_rows(table / "*.parquet") for table in raw.glob("raw_*"))


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    answer = connection.execute(f"select count(*) from {relation}").fetchone()
    assert answer
    return answer[0]


def _snapshot_rows(place: Path, day: date) -> int:
    with duckdb.connect(str(place / features_windows.WAREHOUSE), read_only=True) as connection:
        return _count(connection, f"features.customer_features where feature_timestamp = '{day}'")


def _compared(place: Path) -> dict[str, Any]:
    """How many values of the reference are those of the dbt models, over the rows that either has.

    Of large tables a share of the customers is compared: about a million rows.
    """
    with connect(Path(":memory:")) as connection:
        connection.execute(f"attach '{place}/reference.duckdb' as theirs (read_only)")
        connection.execute(f"attach '{place}/{features_windows.WAREHOUSE}' as ours (read_only)")
        names = [row[0] for row in connection.execute("describe theirs.customer_features").fetchall()][2:]
        rows = _count(connection, "theirs.customer_features")
        some = f"hash(customer_id) % {1 + rows // 1_000_000} = 0"
        shares = connection.execute(
            f"""
            select {", ".join(f"count(*) filter (t.{name} = o.{name}) / count(*)" for name in names)}
            from (from theirs.customer_features where {some}) as t
            full join (from ours.features.customer_features where {some}) as o
                using (customer_id, feature_timestamp)
            """
        ).fetchone()
    assert shares
    by_name = dict(zip(names, shares, strict=True))
    return {
        "equal_share": sum(shares) / len(shares),
        "least_equal": dict(sorted(by_name.items(), key=lambda item: item[1])[:5]),
    }


if __name__ == "__main__":
    sys.exit(main())
