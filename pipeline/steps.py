"""Steps of a job: one process each, timed, stopping at the first that fails."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from feature_repo.paths import repository_root


class StepError(Exception):
    """A step did not succeed; the message is one sentence that names it."""


@dataclass(frozen=True)
class Step:
    """A titled command, run from the root of the repository."""

    title: str
    command: tuple[str, ...]


def python_module(title: str, module: str, *arguments: str) -> Step:
    """The step `python -m module arguments` in this interpreter."""
    return Step(title, (sys.executable, "-m", module, *arguments))


def dbt_build(title: str, *arguments: str) -> Step:
    """The step `dbt build arguments`, with the dbt that is installed beside this interpreter."""
    return Step(title, (str(Path(sys.executable).parent / "dbt"), "build", *arguments))


def product_steps(as_of: date | None = None, split: Path | None = None) -> list[Step]:
    """The steps from raw tables to what is served: build, train, score, materialize.

    `as_of` is the snapshot date of the run (default: by the raw data), `split` the file for `python -m
    training --split`.
    """
    day = [] if as_of is None else ["--as-of", as_of.isoformat()]
    variables = [] if as_of is None else ["--vars", json.dumps({"as_of": as_of.isoformat()})]
    return [
        dbt_build("dbt build", *variables),
        python_module("feast apply", "feature_repo", "apply"),
        python_module("train", "training", *day, *([] if split is None else ["--split", str(split)])),
        python_module("score", "scoring", *day),
        python_module("materialize online", "feature_repo", "materialize", *day),
    ]


def run_steps(console: Console, steps: Sequence[Step]) -> dict[str, float]:
    """Run the steps in order; returns the seconds that each took, by title.

    Raises StepError at the first step whose exit code is not 0; what it printed is the explanation.
    """
    seconds: dict[str, float] = {}
    for number, step in enumerate(steps, 1):
        console.rule(f"[bold]{number}/{len(steps)} {step.title}", align="left")
        started = time.monotonic()
        exit_code = subprocess.run(step.command, cwd=repository_root(), check=False).returncode
        seconds[step.title] = time.monotonic() - started
        if exit_code:
            raise StepError(
                f"Step {number} of {len(steps)} ({step.title}) failed with exit code {exit_code}; "
                "its messages are above."
            )
    return seconds


def time_table(seconds: dict[str, float]) -> Table:
    """A table of the steps' times, with their sum."""
    table = Table(title="Time", show_footer=True)
    table.add_column("step", footer="all")
    table.add_column("seconds", justify="right", footer=f"{sum(seconds.values()):.1f}")
    for title, duration in seconds.items():
        table.add_row(title, f"{duration:.1f}")
    return table
