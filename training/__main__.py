"""`python -m training`: train the five models from Feast, judge them, publish a version."""

import argparse
import logging
import os
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from feature_repo.catalog import CatalogError, load_catalog
from feature_repo.paths import models_dir, raw_data_dir, repository_root, warehouse_path
from scoring.release import ReleaseError
from training.errors import TrainingError

log = logging.getLogger("training")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 0 only on success."""
    options = _parser().parse_args(arguments)
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
            console, f"There is no warehouse at {warehouse_path()}: run `make run` or `dbt build` first."
        )
    # Feast takes seconds to import: not for --help, nor for the errors above.
    from feature_repo.store import StoreError

    try:
        _train(options, console)
    except (TrainingError, ReleaseError, CatalogError, StoreError) as error:
        return _fail(console, str(error))
    except KeyboardInterrupt:
        console.print("[bold red]Training was interrupted[/]; the champion is what it was before.")
        return 130
    return 0


def _fail(console: Console, reason: str) -> int:
    console.print(Text.assemble(("Training failed. ", "bold red"), reason), soft_wrap=True)
    return 1


def _train(options: argparse.Namespace, console: Console) -> None:
    from feature_repo.offline import historical_table
    from feature_repo.store import open_store
    from training.dataset import data_end_of
    from training.periods import read_customer_periods
    from training.report import decision_table, tables
    from training.run import Settings, steps, train

    catalog = load_catalog()
    store = open_store()

    def retrieve(entity_rows: pa.Table, service: str) -> pa.Table:
        with warnings.catch_warnings():
            # Feast turns deprecation warnings on, and ibis has some about DuckDB.
            warnings.simplefilter("ignore", DeprecationWarning)
            return historical_table(store, entity_rows.to_pandas(), service, catalog)

    try:
        warehouse = duckdb.connect(str(warehouse_path()), read_only=True)
    except duckdb.IOException as error:
        raise TrainingError(f"The warehouse cannot be opened: {error}") from error
    with warehouse:
        uri, artifacts = _tracking()
        settings = Settings(
            as_of=options.as_of or data_end_of(warehouse),
            trained_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
            seed=options.seed,
            models_dir=models_dir(),
            raw_dir=raw_data_dir(),
            tracking_uri=uri,
            artifact_root=artifacts,
            periods=read_customer_periods(options.split) if options.split else None,
        )
        bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        with bar:
            task = bar.add_task("training", total=steps())

            def progress(message: str) -> None:
                bar.advance(task)
                log.info(message)

            categorical = [feature.name for feature in catalog.features if feature.categorical]
            outcome = train(warehouse, retrieve, categorical, settings, progress)
    release = outcome.release
    output = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables({name: model.held_out for name, model in release.models.items()}):
        output.print(table)
    output.print(decision_table(outcome.decisions))
    output.print(f"Version {release.model_version}: {release.decision['summary']}.", highlight=False)


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
            "Train the five models on mature snapshots of the warehouse, with features from Feast; report on "
            "held-out customers and weeks; publish a version, as champion when it is not worse."
        ),
        epilog=(
            "Environment: WAREHOUSE_PATH, FEATURE_EXPORT_DIR, MODELS_DIR, RAW_DATA_DIR (only for the "
            "simulator's truth), MLFLOW_TRACKING_URI (default sqlite:///<root>/data/mlflow/mlflow.db)."
        ),
    )
    parser.add_argument(
        "--as-of",
        type=_moment,
        metavar="YYYY-MM-DD",
        help="train as on that day, with labels mature by then (default: the latest snapshot)",
    )
    parser.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="CSV of customer_id, block (fit, choose or report), first_day, last_day: the block of each "
        "customer and the days in which snapshots and what their labels look at must lie, instead of the "
        "split by time and by a hash of the customer; for customers who come for a time, like a school year",
    )
    parser.add_argument(
        "--seed", type=int, default=20260101, help="of the models' random choices (default: %(default)s)"
    )
    return parser


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a date like 2026-07-02") from None
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


if __name__ == "__main__":
    sys.exit(main())
