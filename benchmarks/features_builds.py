"""The builds that benchmarks/features.py measures, each run in a process of its own.

    python -m benchmarks.features_builds dbt <arguments of dbt>
    python -m benchmarks.features_builds reference <raw directory> <as of> <database>

What dbt did is read from its target directory afterwards: how long queries ran, and how long dbt itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from benchmarks.measure import report

THREADS = 2
MEMORY_LIMIT = os.environ.get("DUCKDB_MEMORY_LIMIT") or "6GB"
_REFERENCE = Path(__file__).with_name("features_reference.sql")
_FEATURES = "model.customer_health.customer_features"


def connect(database: Path) -> duckdb.DuckDBPyConnection:
    """A database with the settings of profiles.yml."""
    connection = duckdb.connect(
        str(database),
        config={"threads": THREADS, "memory_limit": MEMORY_LIMIT, "preserve_insertion_order": False},
    )
    connection.execute("set TimeZone = 'UTC'")
    return connection


def dbt(*arguments: str) -> Callable[[], None]:
    """A run of dbt, with its start: it is imported in the run."""

    def run() -> None:
        from dbt.cli.main import dbtRunner

        # Standard output is for the measurement.
        with contextlib.redirect_stdout(sys.stderr):
            outcome = dbtRunner().invoke(["--quiet", *arguments])
        if not outcome.success:
            raise RuntimeError(f"dbt {' '.join(arguments)} failed: {outcome.exception or 'see above'}")

    return run


def reference(raw: str, as_of: str, database: str) -> Callable[[], None]:
    """The hand-made SQL, into a new database each time."""

    def run() -> None:
        Path(database).unlink(missing_ok=True)
        with connect(Path(database)) as connection:
            connection.execute(f"set variable raw = '{raw}'")
            connection.execute(f"set variable as_of = date '{as_of}'")
            connection.execute(_REFERENCE.read_text())

    return run


@dataclass(frozen=True)
class Node:
    """A node that dbt ran: its group (features, rest or tests), and its times in seconds since 1970."""

    name: str
    group: str
    intervals: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """How long it ran. Nodes that ran side by side waited for each other's processor."""
        return sum(end - begin for begin, end in self.intervals)


def nodes_run(target: Path) -> list[Node]:
    """What the last run of dbt with this target directory ran.

    A node's time is that of its compilation, in which incremental models ask what is new, and execution.
    """
    needed = _ancestors(json.loads((target / "manifest.json").read_text())["parent_map"])
    nodes = []
    for result in json.loads((target / "run_results.json").read_text())["results"]:
        name = result["unique_id"]
        kind = name.partition(".")[0]
        if kind in ("test", "unit_test"):
            group = "tests"
        else:
            group = "features" if name in needed or kind == "operation" else "rest"
        intervals = tuple(
            (_moment(timing["started_at"]), _moment(timing["completed_at"])) for timing in result["timing"]
        )
        nodes.append(Node(name.split(".")[2], group, intervals))
    return nodes


def query_seconds(nodes: Iterable[Node]) -> float:
    """For how long at least one of the nodes ran: two at a time count once."""
    busy, until = 0.0, 0.0
    for begin, end in sorted(interval for node in nodes for interval in node.intervals):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy


def _ancestors(parents: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [_FEATURES]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(parents.get(name, []))
    return found


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


BUILDS = {"dbt": dbt, "reference": reference}


def main(build: str, *arguments: str) -> None:
    """Measure one build and print the outcome; dbt cannot be repeated, because it adds to what is there."""
    report(lambda: BUILDS[build](*arguments), repeats=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
