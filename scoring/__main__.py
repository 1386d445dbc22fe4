"""python -m scoring: score the snapshots that the champion has not scored yet, and what hangs on them.

That is a part of the dbt graph, `dbt build --select predictions+`, with clear words before and a summary
after it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import date

import duckdb
from rich.console import Console
from rich.table import Table

from feature_repo.paths import models_dir, repository_root, warehouse_path
from scoring import forget as forgetting
from scoring.functions import HOW_TO_TRAIN
from scoring.release import ReleaseError, read_champion

SELECTION = "predictions+"


class ScoringError(Exception):
    """Scoring cannot run or did not succeed; the message is one sentence that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 when everything was scored and tested, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m scoring",
        description="Scores the snapshots that the champion model has not scored yet, inside the warehouse, "
        "and rebuilds the marts that hang on the predictions. A repeat adds nothing.",
        epilog="The warehouse is WAREHOUSE_PATH (default data/warehouse.duckdb), the models are in "
        "MODELS_DIR (default data/models).",
    )
    parser.add_argument(
        "--as-of",
        type=date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="the dbt variable as_of of this run (default: by the raw data); adds no snapshot, "
        "'dbt build' does",
    )
    command = parser.add_subparsers(dest="command", metavar="forget CUSTOMER_ID").add_parser(
        "forget", help="remove every trace of a customer, for good", description=forgetting.__doc__
    )
    command.add_argument("customer_id", metavar="CUSTOMER_ID")
    options = parser.parse_args(arguments)
    console = Console()
    if options.command == "forget":
        return forget(console, options.customer_id)
    try:
        before = count_predictions()
        score(options.as_of)
        show_summary(console, added=count_predictions() - before)
    except (ScoringError, ReleaseError) as error:
        print(f"Scoring failed: {error}", file=sys.stderr)
        return 1
    return 0


def forget(console: Console, customer: str) -> int:
    """Forget the customer and print what was removed; exit code 1 when that failed."""
    try:
        removed = forgetting.forget(customer)
    except forgetting.ForgetError as error:
        print(f"Forgetting failed: {error}", file=sys.stderr)
        return 1
    for place, rows in removed.items():
        console.print(f"{place}: {rows:,} rows", highlight=False)
    console.print(f"The customer is forgotten; {forgetting.LOG} says when, without the id.", highlight=False)
    return 0


def score(as_of: date | None = None) -> None:
    """Build the predictions and what hangs on them. Raises ScoringError or ReleaseError when that fails."""
    if read_champion(models_dir()) is None:
        raise ScoringError(HOW_TO_TRAIN.format(models_dir=models_dir()))
    # A process of its own: dbt keeps its connection to the warehouse until its process ends.
    command = [sys.executable, "-c", "from dbt.cli.main import cli; cli()", "build", "--select", SELECTION]
    if as_of is not None:
        command += ["--vars", json.dumps({"as_of": as_of.isoformat()})]
    if subprocess.run(command, cwd=repository_root(), check=False).returncode:
        raise ScoringError(f"'dbt build --select {SELECTION}' did not succeed; its messages are above.")


def count_predictions() -> int:
    """Rows of predictions.customer_predictions, 0 before the first build of it.

    Raises ScoringError when there is no warehouse with features in it, or it cannot be opened.
    """
    path = warehouse_path()
    if not path.exists():
        raise ScoringError(f"There is no warehouse at {path}: build it with 'dbt build'.")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            built = {
                f"{schema}.{name}"
                for schema, name in connection.execute(
                    "select table_schema, table_name from information_schema.tables"
                ).fetchall()
            }
            if "features.customer_features" not in built:
                raise ScoringError(f"{path} has no features.customer_features: build it with 'dbt build'.")
            if "predictions.customer_predictions" not in built:
                return 0
            return connection.execute("select count(*) from predictions.customer_predictions").fetchall()[0][
                0
            ]
    except duckdb.IOException as error:
        raise ScoringError(
            f"{path} cannot be opened, perhaps because another process has it open: {error}"
        ) from error


def show_summary(console: Console, added: int) -> None:
    """Print what the champion has scored by now, `added` of it in this run, and the customers by tier."""
    with duckdb.connect(str(warehouse_path()), read_only=True) as connection:
        scored = connection.execute(
            """
            select model_version, count(*), count(distinct feature_timestamp), max(feature_timestamp)::date
            from predictions.customer_predictions
            inner join predictions.model_versions using (model_version)
            where is_champion
            group by model_version
            """
        ).fetchall()
        tiers = connection.execute(
            """
            select health_tier, customers, share_of_customers, average_churn_risk_30d, action
            from marts.health_tier_summary
            order by min_score desc
            """
        ).fetchall()
    if not scored:
        raise ScoringError(
            "No snapshot lies after the champion's training data, so there was nothing to score; build newer "
            "ones with 'dbt build'."
        )
    version, rows, snapshots, latest = scored[0]
    table = Table(title=f"Customers by health tier on {latest}, scored by {version}")
    for heading in ("tier", "customers", "share", "churn risk 30 d"):
        table.add_column(heading, justify="left" if heading == "tier" else "right")
    table.add_column("action")
    for tier, customers, share, risk, action in tiers:
        shown = ["-" if value is None else f"{value:.1%}" for value in (share, risk)]
        table.add_row(tier, f"{customers:,}", *shown, action)
    console.print(table)
    console.print(
        f"{added:,} predictions added; {version} has scored {rows:,} rows at {snapshots} snapshots."
    )


if __name__ == "__main__":
    sys.exit(main())
