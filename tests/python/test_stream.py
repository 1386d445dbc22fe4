"""Between nights: events streamed in end in what a night computes of them; alerts are told once a crossing;
a stream may be killed anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Warehouse, dbt_build
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_data import AS_OF, DAY, GRACE, HOUR, Mutation, RawData, random_worlds
from test_feast import write_configuration
from test_scoring import publish, small_release

from feature_repo.build import PREDICTIONS_SERVICE
from feature_repo.catalog import ALL_FEATURES_SERVICE
from feature_repo.paths import feature_repo_dir
from feature_repo.store import apply, materialize, open_store
from scoring.__main__ import main as forget
from streaming.__main__ import main
from streaming.alerts import RULES
from streaming.contract import EventError, load_contract, parse_event
from streaming.errors import StreamError
from streaming.feed import RawFeed
from streaming.history import History
from streaming.ledger import Ledger
from streaming.locks import is_being_written
from streaming.models import Models, compile_models
from streaming.online import Online
from streaming.service import Stream
from streaming.sinks import JsonLines, SinkError, Sns, Webhook
from streaming.sources import KinesisSource, LinesSource, Record, RedisSource

NIGHT = AS_OF
"""The snapshot of the night before the streamed day."""
TOMORROW = NIGHT + DAY
MORNING = NIGHT + 9 * HOUR
VARIABLES = {"max_rejected_share": 1}
STEPS = (
    (History, "add"),
    (RawFeed, "append"),
    (Ledger, "reserve"),
    (Online, "publish"),
    (Ledger, "observe"),
    (JsonLines, "send"),
    (Ledger, "sent"),
)
"""Of a batch, in their order."""
OPTIONS = ("--exclude-resource-type", "test", "unit_test")
SELECTION = ("+customer_features", "+customer_predictions")


@dataclass(frozen=True)
class Place:
    """Everything that a stream works with, in a folder of its own."""

    folder: Path

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    def stream(self, models: Models, *sinks: Any) -> Stream:
        return Stream(self.folder / "stream", sinks, models=models)

    def build(self, as_of: datetime) -> Warehouse:
        return dbt_build(
            self.raw,
            self.folder / "dbt",
            warehouse=self.folder / "warehouse.duckdb",
            select=SELECTION,
            options=OPTIONS,
            as_of=as_of,
            **VARIABLES,
        )[0]

    def online(self, customers: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the online store serves of customers: all features and predictions."""
        store = open_store()
        rows: dict[str, dict[str, Any]] = {customer: {} for customer in customers}
        for service in (ALL_FEATURES_SERVICE, PREDICTIONS_SERVICE):
            answer = store.get_online_features(
                store.get_feature_service(service), [{"customer_id": customer} for customer in customers]
            ).to_dict()
            for name, values in answer.items():
                for customer, value in zip(customers, values, strict=True):
                    rows[customer][name] = value
        return rows

    def feed(self, table: str) -> list[dict[str, Any]]:
        """What the stream appended to a raw table."""
        files = sorted((self.raw / table).glob("stream-*.parquet"))
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def text(table: str, row: dict[str, Any]) -> bytes:
    """A row as an event."""
    plain = {
        name: value.isoformat()
        if isinstance(value, date)
        else str(value)
        if isinstance(value, Decimal)
        else value
        for name, value in row.items()
    }
    return json.dumps({"table": table, **plain}).encode()


def records(*texts: bytes) -> list[Record]:
    return [Record(f"line {number}", line, "") for number, line in enumerate(texts, 1)]


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def call(number: int, customer: str, called_at: datetime, **changes: Any) -> bytes:
    raw = RawData()
    row = raw.call(f"call_{customer}_{number}", customer, called_at, loaded_at=called_at, **changes)
    return text("raw_calls", row)


def login(number: int, customer: str, occurred_at: datetime) -> bytes:
    raw = RawData()
    return text("raw_app_events", raw.event(f"e_{number}", customer, occurred_at, loaded_at=occurred_at))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return compile_models(tmp_path_factory.mktemp("dbt"), VARIABLES)


@pytest.fixture(scope="module")
def worlds() -> tuple[RawData, RawData]:
    """Rows that landed before the night, and rows that come after it: new ones, corrections, broken ones."""
    everything = random_worlds(4, seed=11)
    before = everything.arrived_by(NIGHT)
    for number in range(len(STEPS)):
        before.customer(f"plain_{number}", NIGHT - 40 * DAY)
        before.session(f"plain_s{number}", f"plain_{number}", NIGHT - 3 * DAY, tutor_id="plain_tutor")
    after = everything.where(lambda row: row["loaded_at"] is not None and row["loaded_at"] >= NIGHT + GRACE)
    return before, after + Mutation(before, NIGHT, seed=12).build()


@pytest.fixture(scope="module")
def night(worlds: tuple[RawData, RawData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished night: raw files, champion, warehouse, exports."""
    place = Place(tmp_path_factory.mktemp("night"))
    worlds[0].write(place.raw)
    publish(small_release(trained_until=datetime(2025, 9, 2)), place.folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELS_DIR", str(place.folder / "models"))
        place.build(NIGHT)
        patch.setenv("FEATURE_EXPORT_DIR", str(place.folder / "dbt" / "export"))
        patch.setenv("FEAST_FS_YAML_FILE_PATH", str(write_configuration(place.folder)))
        store = open_store()
        apply(store)
        materialize(store)
    return place.folder


@pytest.fixture
def place(night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of what the night left; models and exports stay where they are, as nothing writes them."""
    folder = tmp_path / "place"
    shutil.copytree(night, folder, ignore=shutil.ignore_patterns("dbt", "models"))
    monkeypatch.setenv("RAW_DATA_DIR", str(folder / "raw"))
    monkeypatch.setenv("WAREHOUSE_PATH", str(folder / "warehouse.duckdb"))
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(night / "dbt" / "export"))
    monkeypatch.setenv("MODELS_DIR", str(night / "models"))
    monkeypatch.setenv("STREAM_DIR", str(folder / "stream"))
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(write_configuration(folder)))
    return Place(folder)


# === The same features ====================================================================================


def a_day_of_events(after: RawData, count: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Rows as a day brings them: most with a load of that day, some late, some without a load."""
    random = np.random.default_rng(seed)
    rows = [(table, row) for table, rows in after.tables.items() for row in rows]
    chosen = [rows[index] for index in sorted(random.choice(len(rows), count, replace=False))]
    random.shuffle(chosen)
    events = []
    for number, (table, row) in enumerate(chosen):
        kind = random.random()
        loaded_at = NIGHT + GRACE + number * (DAY / (count + 1))
        if kind < 0.15:
            loaded_at = (
                NIGHT - int(random.integers(1, 9)) * DAY
            )  # late: the snapshots of those days are taken
        times = [
            row[c.name] for c in load_contract()[table].columns if c.is_event_time and row[c.name] is not None
        ]
        if kind > 0.95 and all(moment < TOMORROW for moment in times):
            loaded_at = None
        events.append((table, row | {"loaded_at": loaded_at}))
    return events


def differences_from_warehouse(place: Place, stream: Stream, snapshot: datetime) -> list[str]:
    """Where what was published for a snapshot differs from the warehouse, in any bit."""
    published = stream.ledger.published(snapshot.date())
    online = place.online(published)
    found = []
    with duckdb.connect(str(place.folder / "warehouse.duckdb"), read_only=True) as connection:
        for relation in ("features.customer_features", "predictions.customer_predictions"):
            result = connection.execute(f"select * from {relation} where feature_timestamp = ?", [snapshot])
            names = [column[0] for column in result.description]
            rows = {row[0]: dict(zip(names, row, strict=True)) for row in result.fetchall()}
            for customer in published:
                for name, value in rows[customer].items():
                    if name in online[customer] and bits(value) != bits(online[customer][name]):
                        found.append(
                            f"{customer} {name}: {value!r} in the warehouse, "
                            f"{online[customer][name]!r} online"
                        )
    return found


def in_scope(place: Place, snapshot: datetime) -> set[str]:
    with duckdb.connect(str(place.folder / "warehouse.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "select customer_id from features.customer_features where feature_timestamp = ?", [snapshot]
        ).fetchall()
    return {customer for (customer,) in rows}


def test_events_streamed_in_end_as_a_night_over_them(
    place: Place, models: Models, worlds: tuple[RawData, RawData]
) -> None:
    events = a_day_of_events(worlds[1], count=80, seed=5)
    newcomer = RawData().customer("plain_new", MORNING - 2 * DAY, loaded_at=MORNING)
    # a rating by one customer changes the features of all whose tutor that is
    rating = RawData().session(
        "plain_r", "plain_1", MORNING, rating=1, rated_at=MORNING, loaded_at=MORNING, tutor_id="plain_tutor"
    )
    events[10:10] = [("raw_customers", newcomer), ("raw_sessions", rating)]
    stream = place.stream(models)
    for table, row in events:
        stream.process(records(text(table, row)))
    assert stream.snapshot == TOMORROW.date()

    place.build(TOMORROW)
    published = set(stream.ledger.published(TOMORROW.date()))
    with_events = {row["customer_id"] for table, row in events if load_contract()[table].of_customer}
    assert with_events & in_scope(place, TOMORROW) <= published
    assert "plain_new" in published and "plain_2" in published
    assert len(published) > 20
    assert differences_from_warehouse(place, stream, TOMORROW) == []

    # The stream goes on after the night, from what the night read, now with events that come together.
    stream.follow_nights()
    assert stream.snapshot == (TOMORROW + DAY).date()
    assert stream.ledger.published(stream.snapshot) == []
    more = a_day_of_events(worlds[1], count=12, seed=6)
    stream.process(
        records(*(text(t, r | {"loaded_at": r["loaded_at"] and r["loaded_at"] + DAY}) for t, r in more))
    )
    place.build(TOMORROW + DAY)
    assert stream.ledger.published((TOMORROW + DAY).date())
    assert differences_from_warehouse(place, stream, TOMORROW + DAY) == []
    stream.close()


def test_an_event_that_comes_again_changes_nothing(place: Place, models: Models) -> None:
    stream = place.stream(models)
    event = call(1, "plain_0", MORNING)
    stream.process(records(event, event))
    served = place.online(["plain_0"])
    published = stream.ledger.reserve(["nobody"], stream.snapshot, MORNING)
    stream.process(records(event))
    stream.close()
    again = place.stream(models)
    again.process(records(event))
    again.close()
    assert len(place.feed("raw_calls")) == 1
    assert place.online(["plain_0"]) == served
    assert served["plain_0"]["ib_call_count_7d"] == 1
    assert published


def use_redis(place: Place, url: str) -> None:
    """Serve the place from Redis, as feature_store.redis.yaml does."""
    config = yaml.safe_load((feature_repo_dir() / "feature_store.redis.yaml").read_text())
    config["registry"]["path"] = str(place.folder / "registry.redis.db")
    config["online_store"]["connection_string"] = url.removeprefix("redis://")
    Path(os.environ["FEAST_FS_YAML_FILE_PATH"]).write_text(yaml.safe_dump(config))
    store = open_store()
    apply(store)
    materialize(store)


@pytest.mark.parametrize("store_type", ["sqlite", "redis"])
def test_a_night_and_fresh_rows_supersede_each_other_in_time(
    place: Place, models: Models, store_type: str, request: pytest.FixtureRequest
) -> None:
    """Online holds the row that was known last: a night repeated leaves fresh rows, the next one replaces
    them.
    """
    if store_type == "redis":
        use_redis(place, request.getfixturevalue("redis_url"))
    calls = lambda: place.online(["plain_0"])["plain_0"]["ib_call_count_7d"]  # noqa: E731
    stream = place.stream(models)
    assert calls() == 0
    # All with one load: the rows differ, and the time by which they were known hardly does.
    for number in range(1, 4):
        stream.process(records(call(number, "plain_0", MORNING)))
        assert calls() == number
    materialize(open_store(), NIGHT)
    assert calls() == 3
    # The night's own row of the next midnight, through Feast's push
    store = open_store()
    view = store.get_feature_view("customer_call_features")
    frame = pd.DataFrame({field.name: [7] for field in view.features}, dtype="int32")
    frame = frame.assign(customer_id="plain_0", feature_timestamp=pd.Timestamp(TOMORROW, tz="UTC"))
    store.push("customer_call_features_push", frame)
    assert calls() == 7
    stream.close()


def test_one_wrong_load_time_does_not_move_the_clock(
    place: Place, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    stream = place.stream(models)
    stream.process(records(call(1, "plain_0", datetime(2099, 1, 1)), call(2, "plain_0", MORNING)))
    assert stream.snapshot == TOMORROW.date()
    assert "too far ahead" in caplog.text
    stream.close()
    assert place.online(["plain_0"])["plain_0"]["ib_call_count_7d"] == 1
    assert len(place.feed("raw_calls")) == 2


# === What is wrong with an event ==========================================================================


GOOD = json.loads(call(1, "plain_0", MORNING))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"table": "raw_x"}, "'table' is 'raw_x'"),
        ({"tone": 1}, "raw_calls has no column 'tone'"),
        ({"called_at": "yesterday"}, "column 'called_at' of raw_calls is \"yesterday\""),
        ({"duration_seconds": 1.5}, "must be a whole number"),
        ({"duration_seconds": True}, "must be a whole number"),
        ({"sentiment_score": "low"}, "must be a number"),
        ({"escalated": 0}, "must be true or false"),
        ({"customer_id": 7}, "must be a text"),
    ],
)
def test_what_has_not_the_form_of_a_table_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EventError, match=sentence.replace("'", ".").replace('"', ".")):
        parse_event(json.dumps(GOOD | changes))


def test_a_column_left_out_is_named() -> None:
    with pytest.raises(EventError, match="'direction' of raw_calls is missing"):
        parse_event(json.dumps({name: value for name, value in GOOD.items() if name != "direction"}))
    assert (
        parse_event(json.dumps({n: v for n, v in GOOD.items() if n != "loaded_at"})).values["loaded_at"]
        is None
    )


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_line_is_too_strange(line: bytes) -> None:
    with pytest.raises(EventError):
        parse_event(line)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3),
        max_leaves=4,
    ),
    st.sampled_from(
        [(table.name, column.name) for table in load_contract().values() for column in table.columns]
    ),
)
@settings(max_examples=300)
def test_every_value_is_read_or_refused(value: Any, column: tuple[str, str]) -> None:
    table, name = column
    row = dict.fromkeys(load_contract()[table].names) | {name: value}
    try:
        event = parse_event(json.dumps({"table": table, **row}))
    except EventError:
        return
    assert pa.Table.from_pylist([event.values], schema=load_contract()[table].schema).num_rows == 1


def test_bad_lines_are_set_aside_and_the_stream_goes_on(
    place: Place, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "streaming")
    file = place.folder / "events.jsonl"
    unknown = call(3, "nobody", MORNING)
    broken = call(2, "plain_0", MORNING, sentiment_score=1.5)
    file.write_bytes(
        b"\n".join(
            [b"not json", b"", broken, unknown, b'{"table": "raw_calls"}', call(1, "plain_0", MORNING)]
        )
    )
    stream = place.stream(models)
    stream.run(LinesSource(file, stream.ledger))
    stream.close()
    assert "line 1: it is no JSON object" in caplog.text
    assert "line 5: column 'call_id' of raw_calls is missing" in caplog.text
    assert "raw_calls call_plain_0_2 breaks the contract (out_of_range)" in caplog.text
    assert "raw_calls call_nobody_3 breaks the contract (unknown_customer)" in caplog.text
    letters = (place.folder / "stream" / "dead_letters.jsonl").read_text().splitlines()
    assert [json.loads(letter)["text"] for letter in letters] == ["not json", '{"table": "raw_calls"}']
    # what has the form of a table is the nightly build's to judge
    assert len(place.feed("raw_calls")) == 3
    assert place.online(["plain_0"])["plain_0"]["ib_call_count_7d"] == 1


# === Alerts ===============================================================================================


class Memory:
    """A sink that remembers; it can be told to refuse."""

    name = "memory"

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.refuses = False

    def send(self, alert_id: str, message: str) -> None:
        if self.refuses:
            raise SinkError("no")
        self.told.append(json.loads(message))
        assert self.told[-1]["alert_id"] == alert_id

    def of(self, rule: str) -> list[str]:
        return [alert["customer_id"] for alert in self.told if alert["rule"] == rule]


CALLS = "inbound_calls_14d"


def test_a_second_call_is_told_once(place: Place, models: Models) -> None:
    memory = Memory()
    stream = place.stream(models, memory)
    for number in range(3):
        stream.process(records(call(number, "plain_0", MORNING + number * HOUR)))
        stream.send_alerts()
        assert memory.of(CALLS) == ["plain_0"] * (number >= 1)
    # taken back by a correction, and reached again
    stream.process(
        records(
            *(
                text("raw_calls", json.loads(call(n, "plain_0", MORNING + n * HOUR))
                     | {"direction": "outbound", "loaded_at": str(MORNING + 5 * HOUR)})
                for n in (1, 2)
            )
        )
    )  # fmt: skip
    stream.send_alerts()
    assert memory.of(CALLS) == ["plain_0"]
    stream.process(records(call(9, "plain_0", MORNING + 6 * HOUR)))
    stream.send_alerts()
    assert memory.of(CALLS) == ["plain_0"] * 2
    assert len({alert["alert_id"] for alert in memory.told}) == len(memory.told)
    stream.close()
    # a start is no crossing
    again = place.stream(models, memory)
    again.send_alerts()
    again.close()
    assert memory.of(CALLS) == ["plain_0"] * 2


def test_an_alert_that_is_not_taken_is_sent_again(place: Place, models: Models) -> None:
    memory = Memory()
    memory.refuses = True
    stream = place.stream(models, memory)
    stream.process(records(call(1, "plain_0", MORNING), call(2, "plain_0", MORNING)))
    stream.send_alerts()
    stream.close()
    assert memory.told == []
    memory.refuses = False
    again = place.stream(models, memory)
    again.send_alerts()
    again.send_alerts()
    again.close()
    assert memory.of(CALLS) == ["plain_0"]


VALUES = {
    "churn_risk_30d": st.sampled_from([0.1, 0.6, np.nextafter(0.6, 1), 0.9, None]),
    "health_score": st.sampled_from([39.9, 40.0, np.nextafter(40.0, 0), 80.0, None]),
    "ib_call_count_14d": st.sampled_from([0, 1, 2, 3]),
}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.fixed_dictionaries(VALUES)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_alerts_are_the_crossings(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    """Against the rules written out by hand."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
    ledger.observe([], {}, [], night=date(2026, 1, 1))
    last: dict[tuple[str, str], bool] = {}
    for number, (customer, row) in enumerate(steps):
        now = {
            "churn_risk_30d": None if row["churn_risk_30d"] is None else row["churn_risk_30d"] > 0.6,
            "health_score": None if row["health_score"] is None else row["health_score"] < 40,
            CALLS: row["ib_call_count_14d"] >= 2,
        }
        expected = {rule for rule, side in now.items() if side and not last.get((customer, rule), False)}
        last |= {(customer, rule): side for rule, side in now.items() if side is not None}
        told = ledger.observe(
            [{"customer_id": customer} | row], {customer: datetime(2026, 1, 2) + number * HOUR}, ["sink"]
        )
        assert {alert.rule for alert in told} == expected
    rows = ledger.unsent("sink")
    assert len({alert_id for alert_id, _ in rows}) == len(rows)
    ledger.close()


def test_a_night_tells_who_fell_silent_and_a_first_night_tells_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    risky = {"churn_risk_30d": 0.9, "health_score": 70.0, "ib_call_count_14d": 0}
    calm = risky | {"churn_risk_30d": 0.1}

    def observe(a: dict, b: dict, day: int) -> list[str]:
        rows = [{"customer_id": "a"} | a, {"customer_id": "b"} | b]
        told = ledger.observe(
            rows, dict.fromkeys("ab", datetime(2026, 1, day)), ["s"], night=date(2026, 1, day)
        )
        return [alert.customer_id for alert in told]

    assert observe(risky, calm, 1) == []
    assert observe(risky, risky, 2) == ["b"]
    assert observe(risky, risky, 3) == []
    # a night that ends after a row for the next night went out does not undo it
    ledger.observe([{"customer_id": "a"} | calm], {"a": datetime(2026, 1, 4, 1)}, ["s"])
    assert observe(risky, risky, 4) == []
    ledger.close()


# === Kills ================================================================================================


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def kill_after(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
    """Kill the process, once, when a step is done; so also before the step that follows."""
    original = getattr(owner, method)
    killed = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        if not killed:
            killed.append(True)
            raise Killed
        return result

    monkeypatch.setattr(owner, method, wrapped)


def check_three_calls(place: Place, customer: str, told: Path) -> None:
    """That three calls are in the feed, online, and told of, each once."""
    assert [row["call_id"] for row in place.feed("raw_calls") if row["customer_id"] == customer] == [
        f"call_{customer}_{number}" for number in range(3)
    ]
    assert place.online([customer])[customer]["ib_call_count_7d"] == 3
    alerts = [json.loads(line) for line in told.read_text().splitlines()]
    # told twice only where the kill came between telling and noting that it was told, and then under the
    # same id
    ids = [
        alert["alert_id"] for alert in alerts if (alert["customer_id"], alert["rule"]) == (customer, CALLS)
    ]
    assert len(set(ids)) == 1
    assert len(ids) <= 2


def three_calls(customer: str) -> bytes:
    return b"".join(call(number, customer, MORNING + number * HOUR) + b"\n" for number in range(3))


def test_a_stop_after_any_step_loses_nothing_and_repeats_nothing(
    place: Place, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, told = place.folder / "events.jsonl", place.folder / "alerts.jsonl"
    stream = place.stream(models, JsonLines(str(told)))
    for number, (owner, method) in enumerate(STEPS):
        with file.open("ab") as events:
            events.write(three_calls(f"plain_{number}"))
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, owner, method)
            stream.run(LinesSource(file, stream.ledger))
        stream.close()
        stream = place.stream(models, JsonLines(str(told)))
        stream.run(LinesSource(file, stream.ledger))
        check_three_calls(place, f"plain_{number}", told)
    stream.close()


HELD = """
import importlib, json, os, sys
from pathlib import Path
from streaming import __main__ as command, models, service

file, told, compiled, pipe, module, owner, method = sys.argv[1:]
fields = json.loads(Path(compiled).read_text())
held = models.Models(**fields | {"models": [models.Model(**model) for model in fields["models"]]})
service.compile_models = lambda folder, variables: held
owner = getattr(importlib.import_module(module), owner)
original = getattr(owner, method)

def step(*arguments, **options):
    original(*arguments, **options)
    os.write(int(pipe), b"done")
    sys.stdin.read()

setattr(owner, method, step)
sys.exit(command.main(["--file", file, "--alerts", told]))
"""
"""The command, which says by a pipe that a step is done, and then waits to be killed."""


def test_sigkill_loses_nothing_and_repeats_nothing(place: Place, models: Models) -> None:
    file, told, compiled = (place.folder / name for name in ("events.jsonl", "alerts.jsonl", "models.json"))
    fields = asdict(models) | {"schemas": sorted(models.schemas)}
    compiled.write_text(json.dumps(fields))
    killed_after = [(RawFeed, "append"), (JsonLines, "send")]
    for number, (owner, method) in enumerate(killed_after):
        with file.open("ab") as events:
            events.write(three_calls(f"plain_{number}"))
        ready, done = os.pipe()
        step = (owner.__module__, owner.__name__, method)
        with subprocess.Popen(
            [sys.executable, "-c", HELD, str(file), str(told), str(compiled), str(done), *step],
            stdin=subprocess.PIPE,
            pass_fds=[done],
        ) as process:
            os.close(done)
            assert os.read(ready, 4) == b"done"
            process.kill()
        os.close(ready)
        assert process.returncode == -signal.SIGKILL
    stream = place.stream(models, JsonLines(str(told)))
    stream.run(LinesSource(file, stream.ledger))
    stream.close()
    for number in range(len(killed_after)):
        check_three_calls(place, f"plain_{number}", told)


# === Forgetting ===========================================================================================


def test_a_forgotten_customer_is_neither_served_nor_told_of_again(
    place: Place, models: Models, night: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(night / "dbt" / "export", place.folder / "export")
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(place.folder / "export"))
    memory = Memory()
    memory.refuses = True
    stream = place.stream(models, memory)
    stream.process(
        records(
            call(1, "plain_0", MORNING),
            call(2, "plain_0", MORNING),
            b'{"customer_id": "plain_0"}',
            b'{"customer_id": "plain_1"}',
        )
    )
    stream.send_alerts()
    assert CALLS in str(stream.ledger.unsent(memory.name))
    before = place.online(["plain_0", "plain_1"])
    assert before["plain_0"]["ib_call_count_14d"] == 2

    assert forget(["forget", "plain_0"]) == 1
    assert capsys.readouterr().err.endswith(
        f"Forgetting failed: A stream is running in {place.folder / 'stream'}; stop it, repeat the command, "
        "and start it again.\n"
    )
    assert place.online(["plain_0", "plain_1"]) == before
    stream.close()
    holding = [file for file in (place.folder / "stream").iterdir() if b"plain_0" in file.read_bytes()]
    assert {file.name for file in holding} >= {"ledger.sqlite", "history.duckdb", "dead_letters.jsonl"}
    assert forget(["forget", "plain_0"]) == 0
    said = capsys.readouterr().out
    assert "stream ledger" in said and "stream history" in said and "stream dead letters: 1 rows" in said
    for file in (place.folder / "stream").iterdir():
        assert b"plain_0" not in file.read_bytes(), file
    assert "plain_1" in (place.folder / "stream" / "dead_letters.jsonl").read_text()

    memory.refuses = False
    again = place.stream(models, memory)  # the raw feed has rows of that customer which no night has read
    again.process(
        records(
            *(call(number, customer, MORNING) for customer in ("plain_0", "plain_1") for number in (3, 4))
        )
    )
    again.send_alerts()
    assert again.ledger.published(again.snapshot) == ["plain_1"]
    again.close()
    assert {alert["customer_id"] for alert in memory.told} == {"plain_1"}
    served = place.online(["plain_0", "plain_1"])
    assert {value for name, value in served["plain_0"].items() if name != "customer_id"} == {None}
    assert served["plain_1"]["ib_call_count_14d"] == 2
    assert "call_plain_0_3" not in str(place.feed("raw_calls"))
    for file in (place.folder / "stream").iterdir():
        assert b"plain_0" not in file.read_bytes(), file


# === Others at work =======================================================================================


def test_two_streams_do_not_share_a_folder(place: Place, models: Models) -> None:
    stream = place.stream(models)
    with pytest.raises(StreamError, match="two cannot share it"):
        place.stream(models)
    stream.close()


def test_the_warehouse_is_free_for_the_night(place: Place, models: Models) -> None:
    stream = place.stream(models)
    with duckdb.connect(str(place.folder / "warehouse.duckdb")) as writer:
        writer.execute("create table public_proof as select 1")
        stream.process(records(call(1, "plain_0", MORNING)))  # goes on meanwhile
        stream.follow_nights()
    stream.follow_nights()
    stream.close()
    assert place.online(["plain_0"])["plain_0"]["ib_call_count_7d"] == 1


def test_a_file_grows_unless_a_night_reads(place: Place, tmp_path: Path) -> None:
    """While another process has the warehouse open to write, what it may have listed stays as it is."""
    warehouse = place.folder / "warehouse.duckdb"
    feed = RawFeed(tmp_path / "raw", lambda: is_being_written(warehouse))
    folder = tmp_path / "raw" / "raw_calls"

    def sizes_after(number: int) -> list[int]:
        feed.append([parse_event(call(number, "plain_0", MORNING))], NIGHT.date())
        return [pq.ParquetFile(file).metadata.num_rows for file in sorted(folder.glob("*.parquet"))]

    assert [sizes_after(0), sizes_after(1)] == [[1], [2]]
    code = (
        "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(warehouse)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as night:
        assert night.stdout is not None and night.stdout.readline() == "open\n"
        assert [sizes_after(2), sizes_after(3)] == [[2, 1], [2, 1, 1]]
        night.communicate("")
    assert sizes_after(4) == [2, 1, 2]
    # and after a restart
    feed = RawFeed(tmp_path / "raw", lambda: False)
    assert sizes_after(5) == [2, 1, 3]
    assert not list(folder.glob(".*"))


def test_a_full_file_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.feed.ROWS_A_FILE", 2)
    feed = RawFeed(tmp_path, lambda: False)
    for number in range(5):
        feed.append([parse_event(call(number, "plain_0", MORNING))], NIGHT.date())
    files = sorted((tmp_path / "raw_calls").iterdir())
    assert [file.name for file in files] == [
        f"stream-{NIGHT.date()}-{number:04}.parquet" for number in (1, 2, 3)
    ]
    assert [pq.ParquetFile(file).metadata.num_rows for file in files] == [2, 2, 1]


# === Sources ==============================================================================================


def test_lines_are_read_from_where_the_last_stream_stopped(tmp_path: Path) -> None:
    file, ledger = tmp_path / "events.jsonl", Ledger(tmp_path / "ledger.sqlite")
    file.write_bytes(b"one\ntwo\n\nthree\nfo")
    source = LinesSource(file, ledger, follow=True)
    first = source.read(2, 0)
    assert [(record.place, record.text) for record in first] == [("line 1", b"one"), ("line 2", b"two")]
    source.commit(first)
    assert [record.text for record in source.read(9, 0)] == [b"three"]  # not committed, so it comes again
    with file.open("ab") as stream:
        stream.write(b"ur\n")
    source = LinesSource(file, ledger, follow=True)
    last = source.read(9, 0)
    assert [(record.place, record.text) for record in last] == [("line 4", b"three"), ("line 5", b"four")]
    source.commit(last)
    assert source.read(9, 0) == [] and not source.is_finished
    ended = LinesSource(file, ledger)
    assert ended.read(9, 0) == [] and ended.is_finished
    file.write_bytes(b"short")
    with pytest.raises(StreamError, match="shorter than what was read"):
        LinesSource(file, ledger)
    ledger.close()


def test_a_pipe_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        ledger = Ledger(tmp_path / "ledger.sqlite")
        source = LinesSource(None, ledger)
        os.write(writer, b"one\ntw")
        assert [record.text for record in source.read(9, 0)] == [b"one"]
        assert source.read(9, 0) == []
        os.write(writer, b"o")
        os.close(writer)
        read = []
        while not source.is_finished:
            read += source.read(9, 0)
        assert [record.text for record in read] == [b"two"]
        ledger.close()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Redis server on a free port, until the tests of this file are through."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert any("Ready to accept connections" in line for line in server.stdout)
        yield f"redis://127.0.0.1:{port}"
        server.terminate()


def test_a_redis_stream_hands_out_again_what_was_not_acknowledged(redis_url: str) -> None:
    import redis

    client = redis.Redis.from_url(redis_url)
    source = RedisSource(redis_url, "events")
    for number in range(3):
        client.xadd("events", {"event": f"event {number}"})
    first = source.read(2, 0.001)
    assert [record.text for record in first] == [b"event 0", b"event 1"]
    source.commit(first[:1])
    again = RedisSource(redis_url, "events")
    assert [record.text for record in again.read(9, 0.001)] == [b"event 1"]
    new = again.read(9, 0.001) or again.read(9, 0.001)
    assert [record.text for record in new] == [b"event 2"]
    again.commit(new)
    assert again.read(9, 0.001) == []


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        yield


def test_kinesis_shards_are_read_from_their_checkpoints(aws: None, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("kinesis")
    client.create_stream(StreamName="events", ShardCount=2)
    for number in range(6):
        client.put_record(StreamName="events", Data=f"event {number}".encode(), PartitionKey=str(number))
    ledger = Ledger(tmp_path / "ledger.sqlite")

    def read_all(commit: bool) -> list[bytes]:
        source = KinesisSource("events", ledger)
        found = []
        for _ in range(4):
            batch = source.read(10, 0)
            found += [record.text for record in batch]
            if commit:
                source.commit(batch)
        return sorted(found)

    everything = [f"event {number}".encode() for number in range(6)]
    assert read_all(commit=False) == everything
    assert read_all(commit=True) == everything
    assert read_all(commit=True) == []
    client.put_record(StreamName="events", Data=b"event 6", PartitionKey="0")
    assert read_all(commit=True) == [b"event 6"]
    ledger.close()


# === Sinks ================================================================================================


def test_a_webhook_gets_the_alert_with_its_id() -> None:
    got: list[tuple[str | None, bytes]] = []
    answers = [204, 503]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(
                (self.headers["Idempotency-Key"], self.rfile.read(int(self.headers["Content-Length"])))
            )
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        sink = Webhook(f"http://127.0.0.1:{server.server_port}/alerts")
        sink.send("id-1", '{"a": 1}')
        with pytest.raises(SinkError, match="503"):
            sink.send("id-1", '{"a": 1}')
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert got == [("id-1", b'{"a": 1}')] * 2
    with pytest.raises(SinkError):
        sink.send("id-1", "{}")  # nobody listens any more


def test_sns_gets_the_alert_with_its_id(aws: None) -> None:
    import boto3

    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    queue = sqs.create_queue(QueueName="alerts")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    Sns(topic).send("id-1", '{"a": 1}')
    body = json.loads(sqs.receive_message(QueueUrl=queue)["Messages"][0]["Body"])
    assert body["Message"] == '{"a": 1}'
    assert body["MessageAttributes"]["alert_id"]["Value"] == "id-1"
    with pytest.raises(SinkError):
        Sns(f"{topic}-gone").send("id-1", "{}")


# === The command ==========================================================================================


def test_the_command_says_what_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streaming.service.compile_models", lambda folder, variables: None)
    monkeypatch.setenv("WAREHOUSE_PATH", str(place.folder / "nowhere.duckdb"))
    assert main(["--file", "-", "--folder", str(place.folder / "stream")]) == 1
    assert "There is no warehouse at" in capsys.readouterr().err


def test_the_command_reads_a_file_and_tells(
    place: Place, models: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streaming.service.compile_models", lambda folder, variables: models)
    file = place.folder / "events.jsonl"
    file.write_bytes(call(1, "plain_0", MORNING) + b"\n" + call(2, "plain_0", MORNING) + b"\n")
    assert main(["--file", str(file), "--alerts", "-", "--folder", str(place.folder / "stream")]) == 0
    alerts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (CALLS, "plain_0") in {(alert["rule"], alert["customer_id"]) for alert in alerts}
    assert {rule.name for rule in RULES} >= {alert["rule"] for alert in alerts}


def run_until_two_calls(place: Place, patch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command, interrupted when the feed has both calls and what is due was told."""
    original = Stream.send_alerts

    def send_alerts(stream: Stream) -> None:
        original(stream)
        if len(place.feed("raw_calls")) == 2:
            raise KeyboardInterrupt

    with patch.context() as patched:
        patched.setattr(Stream, "send_alerts", send_alerts)
        assert main([*arguments, "--folder", str(place.folder / "stream")]) == 130


def test_the_command_reads_kinesis_and_tells_sns(
    place: Place, models: Models, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setattr("streaming.service.compile_models", lambda folder, variables: models)
    kinesis, sns, sqs = boto3.client("kinesis"), boto3.client("sns"), boto3.client("sqs")
    kinesis.create_stream(StreamName="events", ShardCount=2)
    topic = sns.create_topic(Name="alerts")["TopicArn"]
    queue = sqs.create_queue(QueueName="alerts")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    for number in (1, 2):
        event = call(number, "plain_0", MORNING + number * HOUR)
        kinesis.put_record(StreamName="events", Data=event, PartitionKey=str(number))
    # Started again, it goes on after what it has read.
    for _ in range(2):
        run_until_two_calls(place, monkeypatch, "--kinesis", "events", "--sns", topic)
    assert place.online(["plain_0"])["plain_0"]["ib_call_count_14d"] == 2
    bodies = [
        json.loads(message["Body"])
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    ]
    alerts = [json.loads(body["Message"]) for body in bodies]
    assert [(alert["rule"], alert["customer_id"]) for alert in alerts].count((CALLS, "plain_0")) == 1
    assert len({alert["alert_id"] for alert in alerts}) == len(alerts)


def test_the_command_reads_a_redis_stream(
    place: Place, models: Models, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    monkeypatch.setattr("streaming.service.compile_models", lambda folder, variables: models)
    client, told = redis.Redis.from_url(redis_url), tmp_path / "alerts.jsonl"
    for number in (1, 2):
        client.xadd("day", {"event": call(number, "plain_0", MORNING + number * HOUR)})
    for _ in range(2):
        run_until_two_calls(
            place, monkeypatch, "--redis", "day", "--redis-url", redis_url, "--alerts", str(told)
        )
    assert place.online(["plain_0"])["plain_0"]["ib_call_count_14d"] == 2
    alerts = [json.loads(line) for line in told.read_text().splitlines()]
    assert [(alert["rule"], alert["customer_id"]) for alert in alerts].count((CALLS, "plain_0")) == 1
    assert client.xpending("day", "customer_health")["pending"] == 0
