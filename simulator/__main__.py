"""Command line: ``python -m simulator --customers N --seed S --start YYYY-MM-DD --end YYYY-MM-DD --out
DIR``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from simulator.config import Config
from simulator.simulation import simulate, weeks_of

LOG = logging.getLogger("simulator")


def _parser() -> argparse.ArgumentParser:
    defaults = Config()
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="Simulates a tutoring marketplace: writes its raw tables and the truth behind them.",
    )
    parser.add_argument(
        "--customers",
        type=int,
        default=defaults.customers,
        help="customers who sign up within --signup-days of the start (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="seed of all randomness (default %(default)s)"
    )
    parser.add_argument(
        "--start",
        type=_day,
        default=defaults.start,
        metavar="YYYY-MM-DD",
        help="first day (default %(default)s)",
    )
    parser.add_argument(
        "--end",
        type=_day,
        default=defaults.end,
        metavar="YYYY-MM-DD",
        help="midnight up to which things happen (default %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/raw"), help="directory to write (default %(default)s)"
    )
    parser.add_argument(
        "--signup-days",
        type=int,
        default=defaults.signup_days,
        help="days in which --customers sign up; later signups go on at that pace (default %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the directory when it is not empty")
    parser.add_argument(
        "--no-report", action="store_true", help="do not print achieved beside reference figures"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2026-07-01") from None


def main(arguments: list[str] | None = None) -> int:
    """Runs the simulator; returns 0 only when all tables were written."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False)],
        force=True,
    )
    try:
        config = Config(
            customers=options.customers,
            seed=options.seed,
            start=options.start,
            end=options.end,
            signup_days=options.signup_days,
        )
        with Progress(
            TextColumn("[bold]simulating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("weeks, at {task.fields[day]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=options.quiet,
        ) as bar:
            task = bar.add_task("weeks", total=weeks_of(config), day=str(config.start))
            rows = simulate(
                config, options.out, options.overwrite, lambda day: bar.update(task, advance=1, day=day)
            )
    except (ValueError, FileExistsError, OSError) as problem:
        console.print(f"[red]The simulator stopped:[/red] {problem}", soft_wrap=True)
        return 2
    LOG.info("wrote %s rows to %s", f"{sum(rows.values()):,}", options.out)
    if not options.no_report:
        from simulator.calibration import print_report

        print_report(options.out, config.start, config.end, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
