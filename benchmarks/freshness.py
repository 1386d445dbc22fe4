"""How long an event takes to the online store: `python -m benchmarks.freshness --events 300`, after `make
run`.

Events of customers in scope, one at a time: logins, payments, calls, and ratings, which change the features
of every customer with that tutor. The clock runs from the JSON line until a look-up serves the new row of
the event's customer, and of all affected; alerts are written by then. Works on the warehouse and models
that are there, and on a raw feed and an online store of its own, so nothing is left behind.
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
from rich.progress import track

from benchmarks.measure import markdown_table, write_section
from feature_repo.catalog import ALL_FEATURES_SERVICE, load_catalog
from feature_repo.paths import feature_repo_dir, repository_root, warehouse_path
from feature_repo.store import apply, materialize, open_store
from streaming.features import CustomerFeatures
from streaming.feed import RawFeed
from streaming.online import Online
from streaming.service import Stream
from streaming.sinks import JsonLines
from streaming.sources import Record

DOCUMENT = repository_root() / "docs" / "online.md"
SECTION = "make bench-online: freshness"
HEADER = (
    *("event", "events", "customers updated", "its customer p50, s", "p99, s"),
    *("all of them p50, s", "p99, s", "CPU p50, s"),
)
PARTS = ((RawFeed, "append"), (CustomerFeatures, "_compute"), (Online, "publish"))


def main() -> None:
    """Measure, print a table, and with --write put it into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT.name}")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder), options.events)
    print(text)
    if options.write:
        write_section(DOCUMENT, SECTION, text)


def measure(folder: Path, count: int) -> str:
    """Stream `count` events, with everything that is written below `folder`; returns what to say of it."""
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
    computed: list[tuple[int, float]] = []
    for owner, method in PARTS:
        _watch(owner, method, spent)
    publish = Online.publish

    def counted(online: Online, frame: Any, known_at: Any) -> None:
        publish(online, frame, known_at)
        computed.append((len(frame), time.perf_counter()))

    Online.publish = counted  # type: ignore[method-assign]

    seconds: dict[str, list[float]] = {}
    own_seconds: dict[str, list[float]] = {}
    cpu_seconds: dict[str, list[float]] = {}
    parts: list[dict[str, float]] = []
    rows: dict[str, list[int]] = {}
    for kind, customer, line in track(list(events(count)), "streaming"):
        before = dict(spent)
        computed.clear()
        begun, begun_cpu = time.perf_counter(), time.process_time()
        stream.process([Record("", line, "")])
        ended = time.perf_counter()
        answer = store.get_online_features(service, [{load_catalog().entity_key: customer}]).to_dict()
        look_up = time.perf_counter() - ended
        own_seconds.setdefault(kind, []).append(computed[0][1] - begun + look_up)
        seconds.setdefault(kind, []).append(ended - begun + look_up)
        cpu_seconds.setdefault(kind, []).append(time.process_time() - begun_cpu)
        stream.send_alerts()
        assert answer["customer_tenure_days"][0] is not None
        parts.append({method: spent[method] - before[method] for method in spent})
        rows.setdefault(kind, []).append(sum(count for count, _ in computed))

    means = {method: np.mean([each[method] for each in parts]) for _, method in PARTS}
    lines = [
        _line(kind, own_seconds[kind], seconds[kind], cpu_seconds[kind], rows[kind])
        for kind in sorted(seconds)
    ] + [_line("all", *(_all(each) for each in (own_seconds, seconds, cpu_seconds, rows)))]
    stream.close()
    return "\n\n".join(
        (
            markdown_table(HEADER, lines),
            "Mean seconds of an event's parts: appending {append:.3f}, computing {_compute:.3f}, publishing "
            "{publish:.3f}. ".format(**means)
            + f"Start: {start_seconds:.0f} s. Load of the machine: {os.getloadavg()[0]:.1f} on "
            f"{os.cpu_count()} cores.\n",
        )
    )


def _line(
    kind: str, own_seconds: list[float], seconds: list[float], cpu_seconds: list[float], rows: list[int]
) -> tuple[str, ...]:
    percentiles = [*np.percentile(own_seconds, (50, 99)), *np.percentile(seconds, (50, 99))]
    percentiles.append(np.percentile(cpu_seconds, 50))
    return (kind, str(len(seconds)), f"{np.mean(rows):.1f}", *(f"{each:.2f}" for each in percentiles))


def _all(by_kind: dict[str, list]) -> list:
    return [value for values in by_kind.values() for value in values]


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
