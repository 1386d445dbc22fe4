"""The builds that benchmarks/features.py measures, each run in a process of its own.

    python -m benchmarks.features_builds dbt <arguments of dbt>
    python -m benchmarks.features_builds reference <raw directory> <as of> <database>

A run of dbt leaves when each of its statements ran in queries.json in its target directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import connect, report

_REFERENCE = Path(__file__).with_name("features_reference.sql")
_STATEMENTS = "queries.json"
_FEATURES = "model.customer_health.customer_features"


def dbt(*arguments: str) -> Callable[[], None]:
    """A run of dbt, with its start: it is imported in the run."""

    def run() -> None:
        from dbt.cli.main import dbtRunner

        statements: list[tuple[str, float, float]] = []

        def note(event: Any) -> None:
            if event.info.name == "SQLQueryStatus":
                end = event.info.ts.ToMicroseconds() / 1e6
                statements.append((event.data.node_info.unique_id, end - event.data.elapsed, end))

        # Standard output is for the measurement.
        with contextlib.redirect_stdout(sys.stderr):
            outcome = dbtRunner(callbacks=[note]).invoke(["--quiet", *arguments])
        if not outcome.success:
            raise RuntimeError(f"dbt {' '.join(arguments)} failed: {outcome.exception or 'see above'}")
        (Path(os.environ["DBT_TARGET_PATH"]) / _STATEMENTS).write_text(json.dumps(statements))

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
    """A node that dbt ran: its group (features, rest or tests), and how long its statements ran."""

    name: str
    group: str
    seconds: float


def nodes_run(target: Path) -> list[Node]:
    """What the last run of dbt with this target directory ran."""
    needed = _ancestors(json.loads((target / "manifest.json").read_text())["parent_map"])
    seconds: dict[str, float] = defaultdict(float)
    for name, begin, end in json.loads((target / _STATEMENTS).read_text()):
        # Without a node dbt asks for itself which schemas and relations there are.
        if name:
            seconds[name] += end - begin
    return [Node(name.split(".")[2], _group(name, needed), spent) for name, spent in seconds.items()]


def _group(name: str, needed: set[str]) -> str:
    kind = name.partition(".")[0]
    if kind in ("test", "unit_test"):
        return "tests"
    return "features" if name in needed or kind == "operation" else "rest"


def query_seconds(nodes: Iterable[Node]) -> float:
    """How long their statements ran, one after another (`threads: 1` in profiles.yml)."""
    return sum(node.seconds for node in nodes)


def _ancestors(parents: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [_FEATURES]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(parents.get(name, []))
    return found


BUILDS = {"dbt": dbt, "reference": reference}


def main(build: str, *arguments: str) -> None:
    """Measure one build and print the outcome; dbt cannot be repeated, because it adds to what is there."""
    report(lambda: BUILDS[build](*arguments), repeats=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
