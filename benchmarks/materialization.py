"""How fast the online store is filled, by Feast's own engine and by ours: `make bench-online`.

The newest snapshot of the warehouse's export, repeated under other customer ids until there are enough, and
the same a day later with the values of other customers: the first load of an empty store, and the next night.
Each way runs in a process of its own through `FeatureStore.materialize`, with feature_store.yaml as it is but
for the engine, into SQLite and into Redis. Afterwards the stores are compared, value by value.

The outcome goes into docs/online.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import duckdb
import redis
import yaml
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track

from benchmarks.measure import Measurement, markdown_table, measure_apart, peak_bytes, write_section
from benchmarks.redis_server import NoRedisError, redis_server
from feature_repo.build import TTL, Definitions, build_definitions
from feature_repo.catalog import WIDE_RELATION, load_catalog
from feature_repo.paths import feature_export_dir, feature_repo_dir, repository_root
from feature_repo.store import StoreError, apply, newest_snapshot, open_store

log = logging.getLogger(__name__)

CUSTOMERS = 100_000
FIRST, NEXT = datetime(2026, 1, 1), datetime(2026, 1, 2)
PLAIN, OURS = "plain", "ours"
WAYS = (PLAIN, OURS)
STORES = ("sqlite", "redis")
DATABASES = {PLAIN: 0, OURS: 1}
"""Of the Redis server, a way."""
_DOCUMENT = "docs/online.md"
_DESCRIBED = {PLAIN: "Feast {version}'s own engine", OURS: "**`feature_repo.engine.ColumnarEngine`**"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compare, show the table and write it into the document; 0 when the stores agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.materialization", description=__doc__)
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="how many customers to serve")
    parser.add_argument("--write", action="store_true", help=f"write the outcome into {_DOCUMENT}")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        measure()
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    try:
        newest_snapshot()
        with tempfile.TemporaryDirectory(prefix="bench-online-") as directory:
            folder = Path(directory)
            with redis_server(folder) as port:
                measured, differences = compare(folder, port, options.customers)
    except (StoreError, NoRedisError) as error:
        print(error, file=sys.stderr)
        return 1
    for difference in differences:
        print(difference, file=sys.stderr)
    text = outcome(measured, options.customers)
    Console(width=160).print(text, markup=False)
    if options.write and not differences:
        write_section(repository_root() / _DOCUMENT, "make bench-online: materialization", text)
    return 1 if differences else 0


def compare(folder: Path, port: int, customers: int) -> tuple[dict[tuple[str, str], Measurement], list[str]]:
    """Measure each way into each store; gives what was measured and where the stores differ."""
    log.info("writing the exports of %s customers", f"{customers:,}")
    export(folder / "features", customers)
    measured = {}
    for store, way in track([(s, w) for s in STORES for w in WAYS], description="measuring"):
        place = folder / store / way
        place.mkdir(parents=True)
        (place / "feature_store.yaml").write_text(yaml.safe_dump(configuration(store, way, place, port)))
        measured[store, way] = measure_apart(
            "benchmarks.materialization",
            ["--measure"],
            {
                "FEATURE_EXPORT_DIR": str(folder / "features"),
                "FEAST_FS_YAML_FILE_PATH": str(place / "feature_store.yaml"),
            },
        )
        log.info("%s %s: %s", store, way, measured[store, way])
    return measured, [*sqlite_differences(folder / "sqlite"), *redis_differences(port)]


def export(directory: Path, customers: int) -> None:
    """Write the features' export of so many customers at FIRST and NEXT."""
    catalog = load_catalog()
    with duckdb.connect() as connection:
        (directory / WIDE_RELATION).mkdir(parents=True)
        files = feature_export_dir() / WIDE_RELATION / "*.parquet"
        # The next day everybody has the values of the customer before.
        connection.execute(
            f"""
            copy (
                with numbered as (
                    select
                        * exclude ({catalog.entity_key}, {catalog.timestamp}),
                        row_number() over (order by {catalog.entity_key}) - 1 as place,
                        count(*) over () as available
                    from read_parquet('{files}')
                    where {catalog.timestamp} = '{newest_snapshot():%Y-%m-%d}'
                )
                select
                    printf('C%07d', copies.number) as {catalog.entity_key},
                    timestamp '{FIRST}' + to_days(day::integer) as {catalog.timestamp},
                    numbered.* exclude (place, available)
                from range({customers}) as copies(number)
                cross join range(2) as days(day)
                inner join numbered on numbered.place = (copies.number + day) % numbered.available
            ) to '{directory / WIDE_RELATION / "1.parquet"}' (format parquet)
            """
        )


def configuration(store: str, way: str, place: Path, port: int) -> dict:
    """feature_store.yaml of the store with registry and data in `place`, and with the way's engine."""
    name = "feature_store.yaml" if store == "sqlite" else "feature_store.redis.yaml"
    config = yaml.safe_load((feature_repo_dir() / name).read_text())
    config["registry"]["path"] = str(place / "registry.db")
    if store == "sqlite":
        config["online_store"]["path"] = str(place / "online.db")
    else:
        config["online_store"]["connection_string"] = f"127.0.0.1:{port},db={DATABASES[way]}"
    if way == PLAIN:
        del config["batch_engine"]
    return config


def measure() -> None:
    """In a process of its own: the first load, and the next night, whose seconds are the remark."""
    store = open_store()
    everything = build_definitions()
    families = everything.views[: len(load_catalog().families)]
    sources = tuple(view.batch_source for view in families)
    apply(store, Definitions(everything.entity, sources, families, ()))
    names = [view.name for view in families]
    with contextlib.redirect_stdout(sys.stderr):
        begin = time.perf_counter()
        store.materialize(FIRST - timedelta(days=1), FIRST, feature_views=names)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        store.materialize(NEXT - TTL, NEXT, feature_views=names)
        night = time.perf_counter() - begin
    print(json.dumps(asdict(Measurement(first, peak_bytes(), str(night)))))


def sqlite_differences(folder: Path) -> list[str]:
    """The views of which the two files do not hold the same rows, byte for byte."""
    differences = []
    with sqlite3.connect(folder / OURS / "online.db") as connection:
        connection.execute("attach ? as plain", [str(folder / PLAIN / "online.db")])
        tables = connection.execute(
            "select name from plain.sqlite_master where type = 'table' order by 1"
        ).fetchall()
        for (table,) in tables:
            other = connection.execute(
                f"""
                select
                    (select count(*) from (select * from main.{table} except select * from plain.{table})),
                    (select count(*) from main.{table}) - (select count(*) from plain.{table})
                """
            ).fetchone()
            if other != (0, 0):
                differences.append(f"sqlite, {table}: {other[0]} values differ, {other[1]} more rows")
    return differences


def redis_differences(port: int) -> list[str]:
    """How many customers the two databases of the server do not hold alike, byte for byte."""
    plain, ours = (redis.Redis(port=port, db=DATABASES[way]) for way in WAYS)
    if plain.dbsize() != ours.dbsize():
        return [f"redis: {plain.dbsize()} customers by Feast, {ours.dbsize()} by ours"]
    differing, cursor = 0, None
    while cursor != 0:
        cursor, keys = plain.scan(cursor or 0, count=2_000)
        rows = []
        for client in (plain, ours):
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hgetall(key)
                rows.append(pipe.execute())
        differing += sum(one != other for one, other in zip(*rows, strict=True))
    return [f"redis: {differing} customers differ"] if differing else []


def outcome(measured: Mapping[tuple[str, str], Measurement], customers: int) -> str:
    """The table as Markdown."""
    features = len(load_catalog().features)
    rows = []
    for store in STORES:
        base = measured[store, PLAIN]
        for way in WAYS:
            each = measured[store, way]
            first, night = each.seconds, float(each.remark)
            rows.append(
                [
                    f"{store}, {_DESCRIBED[way].format(version=version('feast'))}",
                    *(
                        f"{seconds:,.1f} s, {customers / seconds:,.0f}/s ({reference / seconds:.1f} ×)"
                        for seconds, reference in ((first, base.seconds), (night, float(base.remark)))
                    ),
                    f"{each.peak_bytes / 1e6:,.0f} MB",
                ]
            )
    header = [f"{customers:,} customers × {features} features", "first load", "next night", "peak memory"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
