"""`python -m report`: the data and model report of a warehouse, as one HTML page and as Markdown."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

# Before anything loads LightGBM: the package sets how its threads wait.
import scoring  # noqa: F401
from feature_repo.catalog import CatalogError
from feature_repo.paths import (
    models_dir,
    raw_data_dir,
    repository_root,
    training_export_dir,
    warehouse_path,
)
from report.figures import ReportError

log = logging.getLogger("report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 0 only on success."""
    from rich.console import Console
    from rich.logging import RichHandler

    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        datefmt="%X",
        handlers=[RichHandler(console=console, show_path=False)],
    )
    from scoring.release import ReleaseError

    try:
        make(options.output, options.exports, console)
    except (ReportError, ReleaseError, CatalogError) as error:
        print(f"make report: {error}", file=sys.stderr)
        return 1
    return 0


def make(output: Path, exports: Path, console: object = None) -> None:
    """Write the report of the warehouse at WAREHOUSE_PATH into the directory `output`.

    `exports` is where `python -m training export` wrote this warehouse's training files, if it did.
    Raises ReportError, ReleaseError or CatalogError; `output` is then as it was.
    """
    # These take a second or two to import: not for --help.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from report import content, render
    from report.sources import open_sources

    bar = Progress(
        TextColumn("report"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[step]}"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("report", total=len(content.sections()) + 3, step="warehouse")

        def progress(step: str) -> None:
            bar.update(task, advance=1, step=step)

        with open_sources(warehouse_path(), models_dir(), raw_data_dir(), exports, progress) as sources:
            document = content.write(sources, progress)
        contents = render.files(document)
        render.write(output, contents)
    written = sum(len(text.encode("utf-8")) for text in contents.values())
    log.info("%s: %d files, %.1f MB", output / render.HTML, len(contents), written / 1e6)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m report",
        description=(
            "Write the data and model report: report.html (one page with everything inside) and report.md "
            "with its SVG plots beside it. Equal data give equal bytes."
        ),
        epilog=(
            "Environment: WAREHOUSE_PATH, MODELS_DIR, TRAINING_EXPORT_DIR, RAW_DATA_DIR (for the sizes of "
            "the files and, where there is one, the simulator's truth)."
        ),
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=repository_root() / "data" / "report",
        metavar="DIR",
        help="directory of the report, replaced as a whole (default: data/report)",
    )
    parser.add_argument(
        "--exports",
        type=Path,
        default=training_export_dir(),
        metavar="DIR",
        help="where this warehouse's training files are, if any (default: TRAINING_EXPORT_DIR, or else "
        "data/exports)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
