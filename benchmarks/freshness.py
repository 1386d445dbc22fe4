"""How long an event takes to the online store: `python -m benchmarks.freshness --events 300`, after `make
run`.

Events of customers in scope, one at a time: logins, payments, calls, and ratings, which change the features
of every customer with that tutor. The clock runs from the JSON line until a look-up serves the customer's
new row; alerts are written by then. Works on the warehouse and models that are there, and on a raw feed and
an online store of its own, so nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from feature_repo.catalog import ALL_FEATURES_SERVICE, load_catalog
from feature_repo.paths import feature_repo_dir, warehouse_path
from feature_repo.store import apply, materialize, open_store
from streaming.features import CustomerFeatures
from streaming.feed import RawFeed
from streaming.online import Online
from streaming.service import Stream
from streaming.sinks import JsonLines
from streaming.sources import Record

PARTS = ((RawFeed, "append"), (CustomerFeatures, "_compute"), (Online, "publish"))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    parser.add_argument("--events", type=int, default=300)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.events)


def measure(folder: Path, count: int) -> None:
    """Stream `count` events, with everything that is written below `folder`."""
    config = yaml.safe_load((feature_repo_dir() / "feature_store.yaml").read_text())
    config["registry"]["path"] = str(folder / "registry.db")
    config["online_store"]["path"] = str(folder / "online.db")
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    os.environ["FEAST_FS_YAML_FILE_PATH"] = str(folder / "feature_store.yaml")
    os.environ["RAW_DATA_DIR"] = str(folder / "raw")
    store = open_store()
    apply(store)
    materialize(store)
    service = store.get_feature_service(ALL_FEATURES_SERVICE)

    started = time.monotonic()
    stream = Stream(folder / "stream", [JsonLines(str(folder / "alerts.jsonl"))])
    start_seconds = time.monotonic() - started
    spent = {method: 0.0 for _, method in PARTS}
    for owner, method in PARTS:
        _watch(owner, method, spent)

    seconds: dict[str, list[float]] = {}
    parts: list[dict[str, float]] = []
    published = []
    for kind, customer, line in track(list(events(count)), "streaming"):
        before = dict(spent)
        customers_before = len(stream.ledger.published(stream.snapshot))
        begun = time.perf_counter()
        stream.process([Record("", line, "")])
        answer = store.get_online_features(service, [{load_catalog().entity_key: customer}]).to_dict()
        seconds.setdefault(kind, []).append(time.perf_counter() - begun)
        stream.send_alerts()
        assert answer["customer_tenure_days"][0] is not None
        parts.append({method: spent[method] - before[method] for method in spent})
        published.append(len(stream.ledger.published(stream.snapshot)) - customers_before)

    console = Console(width=100)
    table = Table(title=f"Seconds from an event to the online store, {count} events one by one")
    for column in ("event", "events", "p50", "p99", "greatest"):
        table.add_column(column, justify="left" if column == "event" else "right")
    for kind, values in [*sorted(seconds.items()), ("all", [each for of in seconds.values() for each in of])]:
        numbers = [
            f"{each:.2f}" for each in (np.percentile(values, 50), np.percentile(values, 99), max(values))
        ]
        table.add_row(kind, str(len(values)), *numbers)
    console.print(table)
    means = {method: np.mean([each[method] for each in parts]) for _, method in PARTS}
    console.print(
        "mean seconds: " + ", ".join(f"{name.strip('_')} {value:.3f}" for name, value in means.items())
    )
    console.print(f"start: {start_seconds:.1f} s; load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    stream.close()


def _watch(owner: type, method: str, spent: dict[str, float]) -> None:
    original = getattr(owner, method)

    def timed(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            spent[method] += time.perf_counter() - begun

    setattr(owner, method, timed)


def events(count: int) -> Iterator[tuple[str, str, bytes]]:
    """Kind, customer and JSON line, a minute apart, in the day after the newest snapshot."""
    with duckdb.connect(str(warehouse_path()), read_only=True) as connection:
        snapshot = connection.execute(
            "select max(feature_timestamp) from features.customer_features"
        ).fetchone()[0]
        customers = connection.execute(
            "select customer_id from features.customer_features where feature_timestamp = ? "
            "order by hash(customer_id) limit ?",
            [snapshot, count],
        ).fetchall()
        columns = "session_id, customer_id, tutor_id, subject, booked_at, confirmed_at, scheduled_at"
        result = connection.execute(
            f"select {columns}, status, resolved_at, duration_minutes, rating, rated_at, updated_at, "
            "loaded_at from "
            "staging.stg_sessions "
            "where status = 'completed' and in_force_until is null "
            "qualify row_number() over (partition by customer_id order by resolved_at desc, session_id) = 1"
        )
        names = [column[0] for column in result.description]
        sessions = {row[1]: dict(zip(names, row, strict=True)) for row in result.fetchall()}
    for number in range(count):
        customer = customers[number % len(customers)][0]
        moment = snapshot + timedelta(hours=7, seconds=min(60, 60_000 / count) * number)
        kind = ("login", "payment", "call", "rating")[number % 4]
        own = {"customer_id": customer, "loaded_at": moment}
        if kind == "rating" and customer not in sessions:
            kind = "login"
        table, row = {
            "login": (
                "raw_app_events",
                {"event_id": f"x{number}", "occurred_at": moment, "event_type": "login"},
            ),
            "payment": (
                "raw_payments",
                {
                    "payment_id": f"x{number}",
                    "attempted_at": moment,
                    "amount": 49.5,
                    "currency": "USD",
                    "status": "succeeded",
                    "updated_at": moment,
                },
            ),
            "call": (
                "raw_calls",
                {
                    "call_id": f"x{number}",
                    "called_at": moment,
                    "direction": "inbound",
                    "duration_seconds": 60,
                    "reason": "billing",
                    "sentiment_score": -0.5,
                    "escalated": False,
                },
            ),
            "rating": (
                "raw_sessions",
                sessions.get(customer, {})
                | {"rating": 1 + number % 5, "rated_at": moment, "updated_at": moment},
            ),
        }[kind]
        plain = {
            name: value.isoformat() if isinstance(value, date | datetime) else value
            for name, value in (row | own).items()
        }
        yield kind, customer, json.dumps({"table": table, **plain}).encode()


if __name__ == "__main__":
    main()
