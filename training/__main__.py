"""`python -m training`: train the five models from Feast, judge them, publish a version; or export the data
to train elsewhere, and publish what was trained there.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from feature_repo.catalog import CatalogError, FeatureCatalog, load_catalog
from feature_repo.paths import (
    models_dir,
    raw_data_dir,
    repository_root,
    training_export_dir,
    warehouse_path,
)
from scoring.release import ReleaseError
from training import SEED
from training.dataset import data_end_of
from training.errors import TrainingError
from training.export import STANDARD_SIZES, make_export
from training.export_files import S3Prefix, check_destination, destination_of, write_export

if TYPE_CHECKING:
    from training.run import Outcome, Settings

log = logging.getLogger("training")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 0 only on success."""
    options = _parser().parse_args(arguments)
    run, failed, interrupted = _COMMANDS[options.command]
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        datefmt="%X",
        handlers=[RichHandler(console=console, show_path=False)],
    )
    # Feast, MLflow and their libraries say much that is of no use here; what fails raises.
    for noisy in ("feast", "mlflow", "alembic", "ibis"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if not warehouse_path().exists():
        return _fail(
            console,
            failed,
            f"There is no warehouse at {warehouse_path()}: run `make run` or `dbt build` first.",
        )
    # Feast takes seconds to import: not for --help, nor for the errors above.
    from feature_repo.store import StoreError

    try:
        run(options, console)
    except (TrainingError, ReleaseError, CatalogError, StoreError) as error:
        return _fail(console, failed, str(error))
    except KeyboardInterrupt:
        console.print(f"[bold red]{interrupted}[/]")
        return 130
    return 0


def _fail(console: Console, failed: str, reason: str) -> int:
    console.print(Text.assemble((f"{failed} ", "bold red"), reason), soft_wrap=True)
    return 1


def _train(options: argparse.Namespace, console: Console) -> None:
    from training.run import steps, train

    catalog = load_catalog()
    retrieve = _retrieval(catalog)
    with _open_warehouse() as warehouse:
        settings = _settings(options, warehouse)
        with _progress(console, "training", steps()) as progress:
            categorical = [feature.name for feature in catalog.features if feature.categorical]
            outcome = train(warehouse, retrieve, categorical, settings, progress)
    _show(outcome)


def _publish(options: argparse.Namespace, console: Console) -> None:
    from training.adoption import read_candidates
    from training.run import ADOPTION_STEPS, adopt

    candidates = read_candidates(options.models)
    retrieve = _retrieval(load_catalog())
    with _open_warehouse() as warehouse:
        settings = _settings(options, warehouse)
        with _progress(console, "publishing", ADOPTION_STEPS) as progress:
            outcome = adopt(warehouse, retrieve, candidates, settings, progress)
    _show(outcome)


def _export(options: argparse.Namespace, console: Console) -> None:
    check_destination(options.to)
    catalog = load_catalog()
    retrieve = _retrieval(catalog)
    asked = {name: getattr(options, name) for name in STANDARD_SIZES}
    sizes = None
    if any(size is not None for size in asked.values()):
        sizes = {name: STANDARD_SIZES[name] if size is None else size for name, size in asked.items()}
    with _progress(console, "export", 2) as progress:
        with _open_warehouse() as warehouse:
            as_of = options.as_of or data_end_of(warehouse)
            export = make_export(warehouse, retrieve, catalog, as_of, sizes, options.seed)
        progress(f"records of {len(export.entity_rows):,} customers")
        manifest = write_export(export, catalog, options.to)
        progress(f"files in {options.to}")
    if sizes is None and manifest["sizes"] != dict(STANDARD_SIZES):
        log.warning(
            "Only %d customers have a snapshot, so there are fewer records than the standard %d, in the same "
            "proportions.",
            export.available,
            sum(STANDARD_SIZES.values()),
        )
    table = Table(title=f"Export as of {as_of:%Y-%m-%d} in {options.to}", title_justify="left")
    table.add_column("file")
    table.add_column("records", justify="right")
    table.add_column("bytes", justify="right")
    for entry in manifest["files"]:
        table.add_row(entry["file"], f"{entry['rows']:,}", f"{entry['bytes']:,}")
    _output().print(table)


# What each command runs, and what is said when it fails or is interrupted.
_COMMANDS = {
    None: (_train, "Training failed.", "Training was interrupted[/]; the champion is what it was before."),
    "export": (_export, "Export failed.", "The export was interrupted[/]; an earlier one is what it was."),
    "publish": (
        _publish,
        "Publishing failed.",
        "Publishing was interrupted[/]; the champion is what it was before.",
    ),
}


def _retrieval(catalog: FeatureCatalog) -> Callable[[pa.Table, str], pa.Table]:
    from feature_repo.offline import historical_table
    from feature_repo.store import open_store

    store = open_store()

    def retrieve(entity_rows: pa.Table, service: str) -> pa.Table:
        with warnings.catch_warnings():
            # Feast turns deprecation warnings on, and ibis has some about DuckDB.
            warnings.simplefilter("ignore", DeprecationWarning)
            return historical_table(store, entity_rows.to_pandas(), service, catalog)

    return retrieve


def _open_warehouse() -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(warehouse_path()), read_only=True)
    except duckdb.IOException as error:
        raise TrainingError(f"The warehouse cannot be opened: {error}") from error


def _settings(options: argparse.Namespace, warehouse: duckdb.DuckDBPyConnection) -> "Settings":
    from training.periods import read_customer_periods
    from training.run import Settings

    uri, artifacts = _tracking()
    return Settings(
        as_of=options.as_of or data_end_of(warehouse),
        trained_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
        seed=options.seed,
        models_dir=models_dir(),
        raw_dir=raw_data_dir(),
        tracking_uri=uri,
        artifact_root=artifacts,
        periods=read_customer_periods(options.split) if options.split and not options.command else None,
    )


@contextmanager
def _progress(console: Console, title: str, steps: int) -> Iterator[Callable[[str], None]]:
    bar = Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
    with bar:
        task = bar.add_task(title, total=steps)

        def progress(message: str) -> None:
            bar.advance(task)
            log.info(message)

        yield progress


def _show(outcome: "Outcome") -> None:
    from training.report import decision_table, tables

    release = outcome.release
    output = _output()
    for table in tables({name: model.held_out for name, model in release.models.items()}):
        output.print(table)
    output.print(decision_table(outcome.decisions))
    output.print(f"Version {release.model_version}: {release.decision['summary']}.", highlight=False)


def _output() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160)


def _tracking() -> tuple[str, Path]:
    """The MLflow store's URI and where it keeps files: beside its database, wherever that is."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        uri = f"sqlite:///{repository_root() / 'data' / 'mlflow' / 'mlflow.db'}"
    if not uri.startswith("sqlite:///"):
        raise TrainingError(
            f"MLFLOW_TRACKING_URI is {uri}; training keeps its versions in a SQLite store (sqlite:///path)."
        )
    return uri, Path(uri.removeprefix("sqlite:///")).parent / "artifacts"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=(
            "Without a command: train the five models on mature snapshots of the warehouse, with features "
            "from Feast; report on held-out customers and weeks; publish a version, as champion when it is "
            "not worse."
        ),
        epilog=(
            "Environment: WAREHOUSE_PATH, FEATURE_EXPORT_DIR, MODELS_DIR, RAW_DATA_DIR (only for the "
            "simulator's truth), MLFLOW_TRACKING_URI (default sqlite:///<root>/data/mlflow/mlflow.db)."
        ),
    )
    _add_common(parser, "train as on that day, with labels mature by then", "of the models' random choices")
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="CSV of customer_id, block (fit, choose or report), first_day, last_day: the block of each "
        "customer and the days in which snapshots and what their labels look at must lie, instead of the "
        "split by time and by a hash of the customer; for customers who come for a period, like a school "
        "year (training alone, no command)",
    )
    commands = parser.add_subparsers(dest="command", title="commands")
    export = commands.add_parser(
        "export",
        help="write records for training elsewhere: JSON lines, CSV, Parquet",
        description=(
            "Write one record a customer (segment, features, labels) as JSON lines, CSV and Parquet, divided "
            "by customer into train, validation and test, with a manifest of rows and SHA-256. Equal data "
            "give equal bytes. An earlier export in the same folder is replaced in one step."
        ),
        epilog=(
            "Environment: WAREHOUSE_PATH, FEATURE_EXPORT_DIR, TRAINING_EXPORT_DIR; for S3 the variables that "
            "AWS's tools read, AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL among them. The files are described "
            "in docs/exports.md."
        ),
    )
    export.add_argument(
        "--to",
        type=_destination,
        default=str(training_export_dir()),  # argparse converts a default that is text
        metavar="FOLDER|s3://BUCKET/PREFIX",
        help="where to (default: TRAINING_EXPORT_DIR, or else data/exports)",
    )
    for name, size in STANDARD_SIZES.items():
        export.add_argument(
            f"--{name}",
            type=_count,
            metavar="N",
            help=f"records in {name} (default: {size:,}; without any of the three options all are scaled "
            "down where there are fewer customers)",
        )
    _add_common(export, "export as on that day", "of the choice of a customer's snapshot", inherited=True)
    publish = commands.add_parser(
        "publish",
        help="judge models trained elsewhere on an export, and publish them as a version",
        description=(
            "Take models that training/sagemaker.py trained, judge them on the held-out rows of the "
            "warehouse beside the champion, and publish a version, as champion where it is not worse."
        ),
        epilog="Environment: as for `python -m training`.",
    )
    publish.add_argument(
        "models", type=Path, help="the model directory that the job left, or its model.tar.gz"
    )
    _add_common(publish, "judge as on that day", "kept with the version", inherited=True)
    return parser


def _add_common(parser: argparse.ArgumentParser, as_of: str, seed: str, inherited: bool = False) -> None:
    """--as-of and --seed. A command inherits them: a default of its own would overwrite what stands before
    it on the command line.
    """
    parser.add_argument(
        "--as-of",
        type=_moment,
        metavar="YYYY-MM-DD",
        help=f"{as_of} (default: the latest snapshot)",
        default=argparse.SUPPRESS if inherited else None,
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=argparse.SUPPRESS if inherited else SEED,
        help=f"{seed} (default: {SEED})",
    )


def _destination(text: str) -> Path | S3Prefix:
    try:
        return destination_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of records")
    return int(text)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a date like 2026-07-02") from None
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


if __name__ == "__main__":
    sys.exit(main())
