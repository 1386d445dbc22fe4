"""python -m examples.oulad: the whole pipeline on the Open University Learning Analytics Dataset.

Maps the data set to the raw tables, builds, trains on the earlier presentations, scores the last one, serves
it online, and compares the predictions with who withdrew.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.oulad.source import OuladError, data_directory
from examples.oulad.workspace import Workspace, prepare
from feature_repo.paths import repository_root
from pipeline.steps import StepError, product_steps, python_module, run_steps, time_table
from pipeline.summary import show_summary


def main(arguments: list[str] | None = None) -> int:
    """Run the example and return its exit code: 0 when every step succeeded, else 1."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        run(console, options)
    except (OuladError, StepError) as error:
        print(f"make oulad: {error}", file=sys.stderr)
        return 1
    return 0


def run(console: Console, options: argparse.Namespace) -> None:
    """Map, build, train, score, serve, compare with the withdrawals, report."""
    data = data_directory(options.data)
    workspace = Workspace((repository_root() / options.out).resolve())
    console.rule("[bold]Raw tables", align="left")
    rows, as_of = prepare(data, workspace, options.students)
    table = Table("raw table", "versions", title=f"{data} as raw tables, today is {as_of}")
    for name, count in rows.items():
        table.add_row(name, f"{count:,}")
    console.print(table)
    os.environ.update(workspace.environment())
    withdrawal = ["--data", str(data), "--out", str(workspace.root)]
    if options.students:
        withdrawal += ["--students", str(options.students)]
    steps = product_steps(as_of=as_of, split=workspace.split)
    steps.append(python_module("compare with withdrawals", "examples.oulad.withdrawal", *withdrawal))
    steps.append(python_module("report", "report", "--output", str(workspace.root / "report")))
    seconds = run_steps(console, steps)
    console.rule("[bold]Summary", align="left")
    show_summary(console, report=str(workspace.root / "report" / "report.html"))
    console.print(time_table(seconds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.oulad", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("OULAD_DIR") or None,
        help="directory of the data set: Parquet or the CSV files as downloaded (default: OULAD_DIR, else "
        "../shared/data/oulad)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/oulad"), help="where everything is built (default: data/oulad)"
    )
    parser.add_argument(
        "--students", type=int, help="only so many students, always the same ones (default: all)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
