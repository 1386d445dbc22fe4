"""``python -m feature_repo``: apply, materialize, check and serve the feature store."""

from __future__ import annotations

import argparse
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from feature_repo import check, paths
from feature_repo.build import build_definitions
from feature_repo.predictions import load_predictions
from feature_repo.store import (
    StoreError,
    apply,
    materialize,
    newest_snapshot,
    open_store,
    progress_mark,
    registered_views,
)

console = Console()


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code, 0 only on success."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return options.run(options)
    except (StoreError, ValueError, duckdb.IOException) as error:
        Console(stderr=True).print(
            f"[red]feature_repo {options.command}:[/] {error}", highlight=False, soft_wrap=True
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m feature_repo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser(
        "apply", help="register entity, sources, feature views and services with Feast"
    )
    command.set_defaults(run=_apply)

    command = commands.add_parser("materialize", help="make the online store serve the snapshots of a day")
    command.add_argument(
        "--as-of",
        type=_time,
        help="day or time (UTC), for example 2026-07-01; default: the newest snapshot in the export",
    )
    command.set_defaults(run=_materialize)

    command = commands.add_parser(
        "check", help="compare Feast with what dbt builds; exit code 1 when they differ"
    )
    command.add_argument(
        "--values",
        type=int,
        default=0,
        metavar="N",
        help="also compare the values of N random customers in the warehouse, offline and online",
    )
    command.set_defaults(run=_check)

    command = commands.add_parser("serve", help="answer look-ups over HTTP, as `feast serve` but read-only")
    command.add_argument("--host", default="127.0.0.1", help="another than a loopback address needs a token")
    command.add_argument("--port", type=_port, default=6566, help="default 6566; 0 takes a free one")
    command.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes, default 1")
    token = command.add_mutually_exclusive_group()
    token.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token to ask for")
    token.add_argument(
        "--token-env", metavar="VARIABLE", help="environment variable with the token to ask for"
    )
    command.add_argument(
        "--unknown-as-null",
        action="store_true",
        help="for customers who are not served, answer nulls and NOT_FOUND, as `feast serve`, not 404",
    )
    command.set_defaults(run=_serve)
    return parser


def _port(text: str) -> int:
    # The system would take 99999 for 34463.
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day or time such as 2026-07-01") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _apply(options: argparse.Namespace) -> int:
    store = open_store()
    apply(store)
    views = registered_views(store)
    services = store.list_feature_services()
    features = sum(len(view.features) for view in views)
    predictions = len(load_predictions().columns)
    console.print(
        f"Feast project {store.project}: {len(views)} feature views with {features - predictions} features "
        f"and {predictions} predictions, {len(services)} feature services, "
        f"reading {paths.feature_export_dir()}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _materialize(options: argparse.Namespace) -> int:
    store = open_store()
    as_of = options.as_of or newest_snapshot()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task(
            f"materializing as of {as_of:%Y-%m-%d %H:%M}", total=len(registered_views(store))
        )
        done = materialize(store, as_of, on_view=lambda name: progress.advance(task))
    withdrawn = f", {done.withdrawn:,} out of scope withdrawn" if done.withdrawn else ""
    console.print(
        f"online store ({store.config.online_store.type}) serves {done.customers:,} customers "
        f"as of {done.as_of:%Y-%m-%d %H:%M} UTC{withdrawn}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    views = list(build_definitions().views)
    places = {
        paths.dbt_manifest(): check.manifest_columns,
        paths.warehouse_path(): check.warehouse_columns,
        paths.feature_export_dir(): check.export_columns,
    }
    differences: list[str] = []
    compared = 0
    for place, read in places.items():
        if not place.exists():
            console.print(f"not there: {place}", style="dim", highlight=False, soft_wrap=True)
            continue
        found = check.column_differences(views, read(place))
        console.print(
            f"{place}: " + ("agrees" if not found else f"{len(found)} differences"),
            highlight=False,
            soft_wrap=True,
        )
        differences += found
        compared += 1
    if not compared:
        raise StoreError("There is nothing to compare with; run `dbt parse` or `dbt build` first.")
    if options.values:
        differences += _check_values(options.values)
    for difference in differences:
        console.print(f"  {difference}", highlight=False, soft_wrap=True)
    return 1 if differences else 0


def _serve(options: argparse.Namespace) -> int:
    # Only here: the other commands need no web server.
    from feature_repo import server

    def started(url: str) -> None:
        console.print(f"serving on {url}; Ctrl-C ends", highlight=False, soft_wrap=True)

    server.serve(
        options.host,
        options.port,
        token=server.read_token(options.token_file, options.token_env),
        workers=options.workers,
        unknown_as_null=options.unknown_as_null,
        on_start=started,
    )
    return 0


def _check_values(customers: int) -> list[str]:
    store = open_store()
    marks = {progress_mark(view) for view in registered_views(store)}
    as_of = next(iter(marks))
    if len(marks) > 1 or as_of is None:
        raise StoreError(
            "The online store is not materialized; run `python -m feature_repo materialize` first."
        )
    found = check.agreement_now(store, paths.warehouse_path(), as_of, customers)
    console.print(
        f"values of {customers:,} customers as of {as_of:%Y-%m-%d %H:%M}, warehouse = offline = online: "
        + ("agrees" if not found else f"{len(found)} differences"),
        highlight=False,
        soft_wrap=True,
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
