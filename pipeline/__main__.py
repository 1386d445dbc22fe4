"""python -m pipeline run | daily: the whole product from raw tables on, or one night of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date

from rich.console import Console

from pipeline.marketplace import MarketplaceError, simulation_step
from pipeline.steps import StepError, dbt_build, product_steps, python_module, run_steps, time_table
from pipeline.summary import show_summary
from simulator.config import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job and return its exit code: 0 when every step succeeded, else 1."""
    options = _parser().parse_args(arguments)
    # A log has no width of its own; at 80 columns the tables would be cut.
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        options.job(console, options)
    except (StepError, MarketplaceError) as error:
        print(f"make {options.name}: {error}", file=sys.stderr)
        return 1
    return 0


def run(console: Console, options: argparse.Namespace) -> None:
    """Simulate unless there are raw data, build, train, score, serve online, and print what came out."""
    try:
        asked = Config(customers=options.customers, seed=options.seed, start=options.start, end=options.end)
    except ValueError as error:
        raise MarketplaceError(str(error)) from error
    simulation = simulation_step(asked)
    seconds = run_steps(
        console,
        [*([simulation] if simulation else []), *product_steps()],
    )
    console.rule("[bold]Summary", align="left")
    show_summary(console)
    console.print(time_table(seconds))


def daily(console: Console, options: argparse.Namespace) -> None:
    """Add the snapshot of one day, its scores and marts, and serve it online. A repeat changes nothing."""
    arguments = ["--vars", json.dumps({"as_of": options.as_of.isoformat()})] if options.as_of else []
    online = ["--as-of", options.as_of.isoformat()] if options.as_of else []
    seconds = run_steps(
        console,
        [
            dbt_build("dbt build", *arguments),
            python_module("feast apply", "feature_repo", "apply"),
            python_module("materialize online", "feature_repo", "materialize", *online),
        ],
    )
    console.print(time_table(seconds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    jobs = parser.add_subparsers(dest="name", required=True)
    job = jobs.add_parser("run", help="raw tables in, predictions out")
    job.add_argument("--customers", type=int, default=10_000, help="customers to simulate (default 10000)")
    job.add_argument("--seed", type=int, default=7, help="seed of the simulation (default 7)")
    job.add_argument("--start", type=date.fromisoformat, default=date(2024, 7, 1), metavar="YYYY-MM-DD")
    job.add_argument("--end", type=date.fromisoformat, default=date(2026, 7, 1), metavar="YYYY-MM-DD")
    job.set_defaults(job=run)
    job = jobs.add_parser("daily", help="one night: new snapshot, scores, marts, online store")
    job.add_argument(
        "--as-of",
        type=date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="snapshot to add (default: the last midnight by which all raw tables had landed)",
    )
    job.set_defaults(job=daily)
    return parser


if __name__ == "__main__":
    sys.exit(main())
