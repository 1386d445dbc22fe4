"""Look-ups inside one process, by the bare store and through Feast: for benchmarks.latency.

The store is read as Feast lays it out: rows of SQLite by (entity key, feature), or the fields of one Redis
hash a customer; the values are protobufs.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from feast import FeatureStore
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, compute_table_id
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.catalog import ALL_FEATURES_SERVICE, load_catalog
from feature_repo.response import json_bytes
from feature_repo.serving import OnlineLookup
from feature_repo.store import open_store

Rows = list[dict[str, Value]]
LookUp = Callable[[list[str]], Any]


def bare(store: FeatureStore) -> Callable[[list[str]], Rows]:
    """Select and decode the values of customers, nothing else."""
    kind = store.config.online_store.type
    if kind == "redis":
        return _bare_redis(store)
    return _bare_sqlite(store)


def _keys(store: FeatureStore, customers: Sequence[str]) -> list[bytes]:
    key = load_catalog().entity_key
    return [
        serialize_entity_key(
            EntityKey(join_keys=[key], entity_values=[Value(string_val=customer)]),
            entity_key_serialization_version=store.config.entity_key_serialization_version,
        )
        for customer in customers
    ]


def _bare_sqlite(store: FeatureStore) -> Callable[[list[str]], Rows]:
    tables = [
        compute_table_id(store.project, store.get_feature_view(family.relation))
        for family in load_catalog().families
    ]
    path = (store.repo_path / store.config.online_store.path).resolve()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def look_up(customers: list[str]) -> Rows:
        keys = _keys(store, customers)
        rows: dict[bytes, dict[str, Value]] = {key: {} for key in keys}
        places = ",".join("?" * len(keys))
        for table in tables:
            for key, name, value, _ in connection.execute(
                f'select entity_key, feature_name, value, event_ts from "{table}" '
                f"where entity_key in ({places})",
                keys,
            ):
                rows[key][name] = decoded = Value()
                decoded.ParseFromString(value)
        return [rows[key] for key in keys]

    return look_up


def _bare_redis(store: FeatureStore) -> Callable[[list[str]], Rows]:
    (node,), parameters = RedisOnlineStore._parse_connection_string(
        store.config.online_store.connection_string
    )
    client = redis.Redis(host=node["host"], port=node["port"], **parameters)
    names = [
        (family.relation, feature.name) for family in load_catalog().families for feature in family.features
    ]
    fields: list[Any] = [_mmh3(f"{view}:{name}") for view, name in names]
    times = [f"_ts:{family.relation}" for family in load_catalog().families]

    def look_up(customers: list[str]) -> Rows:
        rows = []
        with client.pipeline(transaction=False) as pipeline:
            for key in _keys(store, customers):
                pipeline.hmget(key + store.project.encode(), fields + times)
            for values in pipeline.execute():
                row = {}
                for (_, name), value in zip(names, values, strict=False):
                    row[name] = decoded = Value()
                    decoded.ParseFromString(value)
                for time_stamp in values[len(names) :]:
                    Timestamp().ParseFromString(time_stamp)
                rows.append(row)
        return rows

    return look_up


def main() -> int:
    """Measure the ways by turns; print one line of JSON: way → customers → [p50, p99], milliseconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency_ways", description=__doc__)
    parser.add_argument("customers", type=Path, help="file with the customers' ids")
    parser.add_argument("--sizes", type=int, nargs="+", required=True)
    parser.add_argument("--look-ups", type=int, required=True, help="of one customer; fewer of more")
    options = parser.parse_args()
    customers = options.customers.read_text().split()
    store = open_store()
    service = store.get_feature_service(ALL_FEATURES_SERVICE)
    key = load_catalog().entity_key
    lookup = OnlineLookup()
    raw = bare(store)
    ways: dict[str, LookUp] = {
        "bare": raw,
        "feast": lambda ids: store.get_online_features(service, {key: ids}),
        "json": lambda ids: json_bytes(lookup.look_up(ids, feature_service=ALL_FEATURES_SERVICE)),
    }
    _check_equal(raw, ways["feast"], customers[: max(options.sizes)])
    measured: dict[str, dict[int, list[float]]] = {way: {} for way in ways}
    for size in options.sizes:
        repeats = max(options.look_ups // size, 50)
        nanoseconds: dict[str, list[int]] = {way: [] for way in ways}
        # By turns, in stretches of a hundred: what disturbs the machine disturbs all of them, and each is as
        # warm as in a process of its own.
        for begin in range(0, repeats, 100):
            for way, look_up in ways.items():
                for number in range(begin, min(begin + 100, repeats)):
                    start = number * size % (len(customers) - size + 1)
                    ids = customers[start : start + size]
                    before = time.perf_counter_ns()
                    look_up(ids)
                    nanoseconds[way].append(time.perf_counter_ns() - before)
        for way, each in nanoseconds.items():
            measured[way][size] = list(np.percentile(np.array(each) / 1e6, [50, 99]))
    print(json.dumps(measured))
    return 0


def _check_equal(raw: Callable[[list[str]], Rows], feast: LookUp, customers: list[str]) -> None:
    """Raise AssertionError unless both look-ups find the same values for the customers."""
    answer = feast(customers).to_dict()
    for index, row in enumerate(raw(customers)):
        for name in load_catalog().names:
            value = getattr(row[name], row[name].WhichOneof("val"))
            assert value == answer[name][index], (customers[index], name)


if __name__ == "__main__":
    sys.exit(main())
