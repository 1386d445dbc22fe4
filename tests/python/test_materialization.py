"""The columnar engine writes what Feast's own engine writes, and readers never see a torn row."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import redis
import yaml
from feast import FeatureStore, FeatureViewState
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import Float64, Int32, String
from hypothesis import given
from hypothesis import strategies as st
from test_feast import (
    CATALOG,
    FIRST_RUN,
    LAST_RUN,
    Warehouse,
    all_customers,
    pairs_at,
    synthetic_snapshots,
    write_configuration,
    write_warehouse,
)

from feature_repo import check, paths
from feature_repo.build import TTL
from feature_repo.encoding import encode_column, entity_keys, entity_of
from feature_repo.engine import ColumnarEngine
from feature_repo.online import RedisRows
from feature_repo.predictions import PREDICTIONS_SERVICE
from feature_repo.store import apply, forget_online, materialize, open_store, registered_views

ROOT = paths.repository_root()
PLAIN, OURS = "plain", "ours"
HSET = b"\r\n$4\r\nHSET\r\n"
"""The name of the command as it stands in Redis's protocol, after `*`, the number of its words."""


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"), synthetic_snapshots(CATALOG), CATALOG)


@pytest.fixture(autouse=True)
def environment(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(warehouse.exports))
    monkeypatch.setenv("WAREHOUSE_PATH", str(warehouse.path))


def configured(directory: Path, way: str, port: int | None = None, batch: int = 7) -> Path:
    """A configuration with the engine of the way, in small batches; into Redis when a port is given."""
    directory.mkdir(exist_ok=True)
    file = write_configuration(directory)
    config = yaml.safe_load(file.read_text())
    if port is not None:
        config["online_store"] = yaml.safe_load(
            (paths.feature_repo_dir() / "feature_store.redis.yaml").read_text()
        )["online_store"]
        config["online_store"]["connection_string"] = f"127.0.0.1:{port},db={0 if way == PLAIN else 1}"
    config["materialization"]["online_write_batch_size"] = batch
    if way == PLAIN:
        del config["batch_engine"]
    file.write_text(yaml.safe_dump(config))
    return file


def opened(directory: Path, way: str, port: int | None = None) -> FeatureStore:
    store = open_store(configured(directory, way, port))
    apply(store)
    assert isinstance(store.provider.batch_engine, ColumnarEngine) == (way == OURS)
    return store


def contents(store: FeatureStore) -> dict:
    """Everything in the online store, as bytes."""
    online = store.config.online_store
    if online.type == "sqlite":
        with sqlite3.connect(online.path) as connection:
            return {
                view.name: connection.execute(
                    f"select * from {store.project}_{view.name} order by entity_key, feature_name"
                ).fetchall()
                for view in registered_views(store)
            }
    host, database = online.connection_string.split(",")
    client = redis.Redis(port=int(host.split(":")[1]), db=int(database.removeprefix("db=")))
    assert all(client.ttl(key) > 0 for key in client.scan_iter())
    return {key: client.hgetall(key) for key in client.scan_iter()}


@given(
    integers=st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), min_size=1),
    doubles=st.lists(st.none() | st.floats(), min_size=1),
    strings=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
)
def test_values_are_encoded_as_feast_encodes_them(integers: list, doubles: list, strings: list) -> None:
    for values, arrow, dtype in (
        (integers, pa.int32(), Int32),
        (doubles, pa.float64(), Float64),
        (doubles * 3, pa.float64(), Float64),
        (strings, pa.string(), String),
    ):
        value_type = dtype.to_value_type()
        encoded = encode_column(pa.array(values, arrow), value_type, texts=True)
        missing = [value is None or value != value for value in values]
        expected = python_values_to_proto_values(
            [None if gone else value for value, gone in zip(values, missing, strict=True)], value_type
        )
        assert encoded.values == [message.SerializeToString() for message in expected]
        assert encoded.texts == [
            None if gone else str(value) for value, gone in zip(values, missing, strict=True)
        ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_keys_are_encoded_as_feast_encodes_them(customers: list[str]) -> None:
    expected = [
        serialize_entity_key(
            EntityKey(join_keys=["customer_id"], entity_values=[Value(string_val=customer)]), 3
        )
        for customer in customers
    ]
    assert entity_keys("customer_id", customers) == expected
    assert [entity_of(key, "customer_id") for key in expected] == customers


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_both_engines_write_the_same_bytes(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    port = request.getfixturevalue("redis_port") if kind == "redis" else None
    if port:
        redis.Redis(port=port).flushall()
    stores = [opened(tmp_path / way, way, port) for way in (PLAIN, OURS)]
    for as_of in (FIRST_RUN, LAST_RUN):
        for store in stores:
            store.materialize(as_of - TTL, as_of)
        plain, ours = map(contents, stores)
        assert plain and plain == ours


def test_redis_serves_the_warehouse_and_deletes_who_left(
    redis_port: int, tmp_path: Path, warehouse: Warehouse
) -> None:
    redis.Redis(port=redis_port).flushall()
    store = opened(tmp_path, OURS, redis_port)
    assert materialize(store, FIRST_RUN).withdrawn == 0
    left = materialize(store, LAST_RUN)
    assert left.withdrawn > 0
    assert len(contents(store)) == left.customers
    pairs = pairs_at(LAST_RUN, all_customers(warehouse))
    for service, expected in (
        ("customer_360", check.warehouse_values(warehouse.path, pairs)),
        (PREDICTIONS_SERVICE, check.warehouse_predictions(warehouse.path, pairs)),
    ):
        assert check.online_differences(store, expected, pairs, service) == []
    before = contents(store)
    (gone,) = (key for key in before if entity_of(key, CATALOG.entity_key) == "customer-000")
    assert forget_online(store, "customer-000") == len(registered_views(store))
    assert forget_online(store, "customer-000") == 0
    assert contents(store) == {key: row for key, row in before.items() if key != gone}


def test_a_later_event_pushed_since_stays(tmp_path: Path) -> None:
    store = opened(tmp_path, OURS)
    materialize(store, FIRST_RUN)
    view = registered_views(store)[0]
    row = {CATALOG.entity_key: ["customer-000"], CATALOG.timestamp: [LAST_RUN.replace(tzinfo=UTC)]}
    row |= {
        field.name: pd.array([7], dtype="Int32" if field.dtype == Int32 else "Float64")
        for field in view.features
    }
    store.provider.ingest_df(view, pd.DataFrame(row))
    materialize(store, FIRST_RUN + timedelta(days=1))
    names = [f"{view.name}:{field.name}" for field in view.features]
    served = store.get_online_features(names, [{CATALOG.entity_key: "customer-000"}]).to_dict()
    assert {served[field.name][0] for field in view.features} == {7}


def values_at(warehouse: Warehouse, *times: datetime) -> dict[datetime, list[dict]]:
    """The features in force at each time, a row a customer."""
    customers = all_customers(warehouse)
    return {
        time: check.warehouse_values(warehouse.path, pairs_at(time, customers)).to_pylist() for time in times
    }


def served_versions(warehouse: Warehouse, values: dict[datetime, list[dict]]) -> list[set[datetime]]:
    """What a client that has just opened the store is served: for each customer the times whose row of the
    first family it may be."""
    family = CATALOG.families[0].features
    served = check.online_values(open_store(), all_customers(warehouse)).to_pylist()
    return [
        {
            time
            for time, rows in values.items()
            if all(row[each.name] == rows[number][each.name] for each in family)
        }
        for number, row in enumerate(served)
    ]


def assert_whole_rows(found: list[set[datetime]], values: dict[datetime, list[dict]]) -> None:
    """Every row is the old or the new one; of a customer who left the old one, until the end of the run."""
    first = CATALOG.families[0].features[0].name
    for number, versions in enumerate(found):
        left = LAST_RUN not in versions and values[LAST_RUN][number][first] is None
        assert versions or left, "a torn row"


KILLED = """
import os, sys
from datetime import datetime
from feature_repo import online
from feature_repo.store import materialize, open_store
real, ready, batches = online._transaction, int(sys.argv[1]), []
import contextlib
@contextlib.contextmanager
def transaction(connection):
    with real(connection):
        yield
        batches.append(1)
        if len(batches) == 3:      # the batch is written and not committed
            os.write(ready, b"x")
            sys.stdin.read()       # until killed
online._transaction = transaction
materialize(open_store(), datetime.fromisoformat(sys.argv[2]))
"""


def test_reads_go_on_and_a_kill_leaves_whole_rows(
    tmp_path: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a batch: a reader is answered before and after, each row old or new."""
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(configured(tmp_path, OURS)))
    store = open_store()
    apply(store)
    materialize(store, FIRST_RUN)
    values = values_at(warehouse, FIRST_RUN, LAST_RUN)
    ready, told = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(told), LAST_RUN.isoformat()],
        stdin=subprocess.PIPE,
        pass_fds=[told],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    ) as writer:
        os.close(told)
        assert os.read(ready, 1) == b"x"
        during = served_versions(warehouse, values)
        writer.send_signal(signal.SIGKILL)
    os.close(ready)
    found = served_versions(warehouse, values)
    assert found == during, "a batch that is not committed shows neither before the kill nor after it"
    assert_whole_rows(found, values)
    assert {LAST_RUN} in found and {FIRST_RUN} in found, "the kill came in the middle"
    materialize(open_store(), LAST_RUN)
    pairs = pairs_at(LAST_RUN, all_customers(warehouse))
    expected = check.warehouse_values(warehouse.path, pairs)
    assert check.online_differences(open_store(), expected, pairs) == []


def test_redis_answers_in_the_middle_of_a_batch_and_repeats_after_an_abort(
    redis_port: int, tmp_path: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two commands of a batch that Redis has carried out and not: each row is old or new."""
    redis.Redis(port=redis_port, db=1).flushdb()
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(configured(tmp_path, OURS, redis_port)))
    apply(open_store())
    materialize(open_store(), FIRST_RUN)
    values = values_at(warehouse, FIRST_RUN, LAST_RUN)
    send, found, states = RedisRows._send, [], set()

    def send_in_two(rows: RedisRows, commands: bytes, count: int) -> list:
        if HSET not in commands:
            return send(rows, commands, count)
        middle = commands.index(HSET, len(commands) // 2)
        begin = commands.rindex(b"*", 0, middle)
        done = 2 * commands[:begin].count(HSET)  # with each comes an EXPIRE
        replies = send(rows, commands[:begin], done)
        states.update(view.state for view in registered_views(open_store()))
        found.append(served_versions(warehouse, values))
        if len(found) == 3:
            raise ConnectionError("aborted")
        return replies + send(rows, commands[begin:], count - done)

    with monkeypatch.context() as patched:
        patched.setattr(RedisRows, "_send", send_in_two)
        with pytest.raises(ConnectionError, match="aborted"):
            materialize(open_store(), LAST_RUN)
    assert FeatureViewState.MATERIALIZING in states, "Feast would refuse the look-up"
    found.append(served_versions(warehouse, values))
    for versions in found:
        assert_whole_rows(versions, values)
        assert {LAST_RUN} in versions and {FIRST_RUN} in versions, "the look-up came in the middle"
    assert found[-1] == found[-2]
    materialize(open_store(), LAST_RUN)
    pairs = pairs_at(LAST_RUN, all_customers(warehouse))
    expected = check.warehouse_values(warehouse.path, pairs)
    assert check.online_differences(open_store(), expected, pairs) == []


def test_sqlite_forgets_one_customer_and_leaves_no_byte(tmp_path: Path) -> None:
    store = opened(tmp_path, OURS)
    materialize(store, LAST_RUN)
    before = contents(store)
    assert forget_online(store, "customer-000") == len(registered_views(store))
    after = contents(store)
    for name, rows in before.items():
        assert after[name] == [row for row in rows if entity_of(row[0], CATALOG.entity_key) != "customer-000"]
    files = Path(store.config.online_store.path).parent.glob("online.db*")
    assert not any(b"customer-000" in file.read_bytes() for file in files)
