"""The feature server: answers equal to Feast's and the warehouse's, refusals in a sentence, a token."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import duckdb
import pytest
import schemathesis
import uvicorn
import yaml
from feast import FeatureStore, FeatureViewState
from feast.feature_server_utils import convert_response_to_dict
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import BoolList, DoubleList, StringList, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import ignored_auth
from test_feast import (
    CATALOG,
    LAST_RUN,
    Warehouse,
    synthetic_snapshots,
    write_configuration,
    write_warehouse,
)

from feature_repo import paths, server, serving
from feature_repo.__main__ import main
from feature_repo.catalog import ALL_FEATURES_SERVICE, WIDE_RELATION
from feature_repo.predictions import (
    PREDICTIONS_RELATION,
    PREDICTIONS_SCHEMA,
    PREDICTIONS_SERVICE,
    load_predictions,
)
from feature_repo.request import MAX_BODY_BYTES, MAX_CUSTOMERS, MAX_ID_LENGTH
from feature_repo.response import json_bytes, response_document
from feature_repo.serving import OnlineLookup, StoreUnavailable
from feature_repo.store import StoreError, apply, materialize, open_store, registered_views

KEY = CATALOG.entity_key
JSON_TYPE = [("content-type", "application/json")]
ROUTE = "/get-online-features"
TOKEN = "a-token-for-tests"
VIEW = CATALOG.families[0].relation
FEATURE = f"{VIEW}:{CATALOG.families[0].features[0].name}"
PROCESS_SECONDS = 120
"""What a server may take to start or to end, on however busy a machine."""
PROPERTIES = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
SMALL = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Requests to an ASGI application, without a server and without a library that would mend them."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.runner = asyncio.Runner()

    def post(self, body: Any, headers: Iterable[tuple[str, str]] = ()) -> Answer:
        sent = [("content-type", "application/json"), *headers]
        return self.request("POST", ROUTE, [json.dumps(body).encode()], sent)

    def request(
        self,
        method: str,
        path: str,
        parts: Iterable[bytes] = (b"",),
        headers: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        left = list(parts)
        messages: list[Any] = []

        async def receive() -> Any:
            part = left.pop(0) if left else b""
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
        self.runner.run(self.app(scope, receive, send))
        start, *bodies = messages
        sent = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], sent, b"".join(message["body"] for message in bodies))


@dataclass(frozen=True)
class Served:
    """A materialized store, and a client of the server over it."""

    store: FeatureStore
    lookup: OnlineLookup
    client: Client
    expected: dict[str, dict[str, Any]]
    """The features of every customer who is served."""
    withdrawn: list[str]
    """Customers who were served before."""

    def post(self, body: Any) -> Answer:
        return self.client.post(body)


def ask(customers: list[str], **what: Any) -> dict[str, Any]:
    return {"entities": {KEY: customers}} | (what or {"feature_service": ALL_FEATURES_SERVICE})


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"), synthetic_snapshots(CATALOG), CATALOG)


@pytest.fixture(scope="module")
def environment(warehouse: Warehouse) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURE_EXPORT_DIR", str(warehouse.exports))
        patch.setenv("WAREHOUSE_PATH", str(warehouse.path))
        yield patch


@pytest.fixture(scope="module")
def served(
    warehouse: Warehouse, environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Served:
    configuration = write_configuration(tmp_path_factory.mktemp("store"))
    environment.setenv("FEAST_FS_YAML_FILE_PATH", str(configuration))
    store = open_store()
    apply(store)
    earlier = LAST_RUN - timedelta(days=9)
    for time in (earlier, LAST_RUN):
        materialize(store, time)
    expected = in_force(warehouse, LAST_RUN)
    withdrawn = sorted(set(in_force(warehouse, earlier)) - set(expected))
    assert expected and withdrawn
    lookup = OnlineLookup()
    return Served(store, lookup, client_of(lookup), expected, withdrawn)


def client_of(lookup: OnlineLookup, **options: Any) -> Client:
    return Client(server.create_app(lookup, **options))


def in_force(warehouse: Warehouse, time: datetime) -> dict[str, dict[str, Any]]:
    """Customer → features and predictions of the last snapshot that is at most a week old."""
    # Not in one query: joined before `qualify`, DuckDB 2.0.0 makes 0.0 of -0.0.
    columns = {
        f"features.{WIDE_RELATION}": CATALOG.names,
        f"{PREDICTIONS_SCHEMA}.{PREDICTIONS_RELATION}": load_predictions().names,
    }
    expected: dict[str, dict[str, Any]] = {}
    with duckdb.connect(str(warehouse.path), read_only=True) as connection:
        for relation, names in columns.items():
            rows = connection.execute(
                f"""
                select {", ".join((KEY, *names))}
                from {relation}
                where {CATALOG.timestamp} between ?::timestamp - interval 7 day and ?::timestamp
                qualify row_number() over (partition by {KEY} order by {CATALOG.timestamp} desc) = 1
                """,
                [time, time],
            ).fetchall()
            for customer, *values in rows:
                expected.setdefault(customer, {}).update(zip(names, values, strict=True))
    return expected


def by_name(answer: Any) -> dict[str, Any]:
    return dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))


def assert_as_in_warehouse(answer: Any, customers: list[str], expected: dict[str, dict[str, Any]]) -> None:
    for name, result in by_name(answer).items():
        feature = name.rpartition("__")[2]
        # repr tells zeros of both signs apart, and equal ones are equal to the last bit.
        found = [customer if feature == KEY else expected[customer][feature] for customer in customers]
        assert list(map(repr, result["values"])) == list(map(repr, found)), name


# --- answers ------------------------------------------------------------------------------------------------


def test_answers_equal_feast_and_the_warehouse(served: Served) -> None:
    customers = st.lists(st.sampled_from(sorted(served.expected)), min_size=1, max_size=6)
    features = st.lists(st.sampled_from(served.lookup.features), min_size=1, max_size=9, unique=True)

    @SMALL
    @given(customers, st.sampled_from(served.lookup.services) | features, st.booleans(), st.booleans())
    def check(ids: list[str], what: str | list[str], full: bool, versions: bool) -> None:
        by = {"feature_service": what} if isinstance(what, str) else {"features": what}
        options = {"full_feature_names": full, "include_feature_view_version_metadata": versions}
        response = served.post(ask(ids, **by, **options))
        assert response.status_code == 200, response.text
        asked = served.store.get_feature_service(what) if isinstance(what, str) else what
        answer = served.store.get_online_features(asked, {KEY: ids}, **options)
        assert response.json() == json.loads(json.dumps(convert_response_to_dict(answer.proto)))
        assert response.headers["content-type"] == "application/json"
        assert_as_in_warehouse(response.json(), ids, served.expected)

    check()


def test_predictions_are_served_with_words_numbers_and_nulls(served: Served) -> None:
    customers = sorted(served.expected)
    response = served.post(ask(customers, feature_service=PREDICTIONS_SERVICE))
    assert response.status_code == 200, response.text
    assert_as_in_warehouse(response.json(), customers, served.expected)
    answer = by_name(response.json())
    assert set(answer) == {KEY, *load_predictions().names}
    found = {type(value) for result in answer.values() for value in result["values"]}
    assert found == {str, float, type(None)}


def test_redis_answers_as_sqlite(served: Served, redis_port: int, tmp_path: Path) -> None:
    configuration = of_redis(tmp_path, redis_port)
    store = open_store(configuration)
    apply(store)
    lookup = OnlineLookup(configuration)
    client = client_of(lookup)
    customers = sorted(served.expected)
    # Redis has PRESENT for what it does not have, so that a status alone would not do.
    response = client.post(ask(customers, features=[FEATURE]))
    assert response.status_code == 503
    assert response.json() == {
        "error": f"{VIEW} has not been materialized yet; run `python -m feature_repo materialize`."
    }
    materialize(store, LAST_RUN)
    take_over(lookup)
    for service in served.lookup.services:
        response = client.post(ask(customers, feature_service=service))
        assert response.status_code == 200, response.text
        assert_as_in_warehouse(response.json(), customers, served.expected)
        response = client.post(ask([*customers, "nobody"], feature_service=service))
        assert (response.status_code, response.json()["unknown_customers"]) == (404, ["nobody"])


def of_redis(directory: Path, port: int) -> Path:
    """A configuration with the online store of that port, and nothing applied."""
    file = fresh(directory)
    config = yaml.safe_load(file.read_text())
    redis = yaml.safe_load((paths.feature_repo_dir() / "feature_store.redis.yaml").read_text())
    address = f"127.0.0.1:{port}"
    config["online_store"] = redis["online_store"] | {"connection_string": address}
    file.write_text(yaml.safe_dump(config))
    return file


def values() -> st.SearchStrategy[Value]:
    special = st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 5e-324])
    floats = special | st.floats(width=64)
    return st.one_of(
        st.builds(Value),
        st.just(Value(null_val=0)),
        st.builds(lambda value: Value(double_val=value), floats),
        st.builds(lambda value: Value(float_val=value), st.floats(width=32)),
        st.builds(lambda value: Value(int32_val=value), st.integers(-(2**31), 2**31 - 1)),
        st.builds(lambda value: Value(int64_val=value), st.integers(-(2**63), 2**63 - 1)),
        st.builds(lambda value: Value(string_val=value), st.text()),
        st.builds(lambda value: Value(bool_val=value), st.booleans()),
    )


def lists() -> st.SearchStrategy[Value]:
    return st.one_of(
        st.builds(lambda value: Value(bytes_val=value), st.binary()),
        st.builds(lambda value: Value(string_list_val=StringList(val=value)), st.lists(st.text())),
        st.builds(lambda value: Value(bool_list_val=BoolList(val=value)), st.lists(st.booleans())),
        st.builds(lambda value: Value(double_list_val=DoubleList(val=value)), st.lists(st.floats())),
    )


@PROPERTIES
@given(st.data())
def test_json_is_that_of_feast(data: st.DataObject) -> None:
    """For every kind of value; floats that are no numbers included."""
    response = GetOnlineFeaturesResponse()
    kinds = data.draw(st.sampled_from([values(), values() | lists()]))
    for vector in data.draw(st.lists(st.lists(kinds, max_size=3), max_size=4)):
        result = response.results.add(values=vector)
        for _ in vector:
            result.statuses.append(data.draw(st.integers(0, 4)))
            result.event_timestamps.add(
                seconds=data.draw(st.integers(0, 4 * 10**9)),
                nanos=data.draw(st.sampled_from([0, 1, 1_000, 120_000_000, 999_999_999, 2_000_000])),
            )
    if data.draw(st.booleans()):
        response.metadata.feature_names.val.extend(data.draw(st.lists(st.text())))
        for version in data.draw(st.lists(st.integers(0, 3), max_size=2)):
            response.metadata.feature_view_metadata.add(name="view", version=version)
    response.status = data.draw(st.booleans())
    # Feast's document goes through JSON as its server sends it. Both must be JSON proper, without NaN.
    theirs = json.dumps(convert_response_to_dict(response), allow_nan=False)
    ours = json_bytes(response_document(response)).decode()
    # repr, because 0.0 == -0.0 and 1 == 1.0.
    ours_read = json.loads(ours, parse_constant=no_json)
    assert repr(sorted_keys(ours_read)) == repr(sorted_keys(json.loads(theirs)))


def no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON, although Python reads it")


def sorted_keys(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: sorted_keys(document[key]) for key in sorted(document)}
    if isinstance(document, list):
        return [sorted_keys(each) for each in document]
    return document


# --- refusals -----------------------------------------------------------------------------------------------

SOMEBODY = "customer-000"
REFUSALS: list[tuple[Any, int, str]] = [
    (b"", 400, "The body is not valid JSON: EOF"),
    (b"{", 400, "The body is not valid JSON: EOF while parsing an object at line 1 column 1."),
    (b"\xff\xfe", 400, "The body is not valid JSON"),
    (b'{"entities":{"customer_id":["\\ud800"]},"feature_service":"x"}', 400, "The body is not valid JSON"),
    (b"[" * 100_000, 400, "The body is not valid JSON"),
    (b"NaN", 422, "The body must be an object."),
    (b"null", 422, "The body must be an object."),
    (b"[]", 422, "The body must be an object."),
    ({}, 422, "entities is missing."),
    ({"entities": None}, 422, "entities must be an object."),
    ({"entities": []}, 422, "entities must be an object."),
    (ask([SOMEBODY], feature_service=1), 422, "feature_service must be a string."),
    (ask([SOMEBODY], features="x"), 422, "features must be a list."),
    (ask([SOMEBODY], features=[None]), 422, "features[0] must be a string."),
    (ask([SOMEBODY], features=[]), 422, "Give a feature_service, or features as view:feature."),
    (ask([SOMEBODY], features=[FEATURE, FEATURE]), 422, f"features names '{FEATURE}' more than once."),
    (ask([SOMEBODY], feature_service="x", features=[FEATURE]), 422, "not both."),
    (ask([SOMEBODY]) | {"full_feature_names": "yes"}, 422, "full_feature_names must be true or false."),
    (ask([SOMEBODY]) | {"push": 1}, 422, "There is no field push in a request."),
    (
        {"entities": {}, "feature_service": "x"},
        422,
        "entities must have the one key 'customer_id', not none.",
    ),
    (
        {"entities": {"customer": [SOMEBODY]}, "feature_service": "x"},
        422,
        "entities must have the one key 'customer_id', not 'customer'.",
    ),
    (
        {"entities": {KEY: [SOMEBODY], "other": ["a", "b"]}, "feature_service": "x"},
        422,
        "entities must have the one key 'customer_id', not 'customer_id', 'other'.",
    ),
    (ask([]), 422, "entities.customer_id must not be empty."),
    (ask([SOMEBODY, ""]), 422, "entities.customer_id[1] must not be an empty string."),
    (ask([None]), 422, "entities.customer_id[0] must be a string."),  # type: ignore[list-item]
    (ask([17]), 422, "entities.customer_id[0] must be a string."),  # type: ignore[list-item]
    (ask(["x" * (MAX_ID_LENGTH + 1)]), 422, "must have at most 256 characters."),
    (ask(["x"] * (MAX_CUSTOMERS + 1)), 422, "must have at most 1,000 items, not 1,001."),
    ({"entities": {KEY: SOMEBODY}}, 422, "entities.customer_id must be a list."),
    (ask([SOMEBODY], feature_service="churn_v9"), 404, "There is no feature service 'churn_v9'; there are "),
    (ask([SOMEBODY], features=["a"]), 404, "'a' is not of the form view:feature, such as "),
    (ask([SOMEBODY], features=["a:b"]), 404, "There is no feature view 'a'; there are "),
    (ask([SOMEBODY], features=[f"{VIEW}:b"]), 404, f"The feature view {VIEW} has no feature 'b'."),
    (ask([SOMEBODY], features=[f"{VIEW}@v1:b"]), 404, "There is no feature view"),
    (ask(["\x00\n"]), 404, "The online store serves no customer '\\x00\\n'."),
]


@pytest.mark.parametrize(("body", "status", "sentence"), REFUSALS)
def test_refusals_are_one_sentence(served: Served, body: Any, status: int, sentence: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = served.client.request("POST", ROUTE, [content], JSON_TYPE)
    assert (response.status_code, sentence in response.json()["error"]) == (status, True), response.text
    assert_sentence(response)


def assert_sentence(response: Any) -> None:
    """An error is a JSON object with one line that ends in a full stop and shows nothing of the program."""
    sentence = response.json()["error"]
    assert response.headers["content-type"] == "application/json"
    assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence
    assert "pydantic" not in sentence.lower() and ".py" not in sentence and len(sentence) < 500


def test_unknown_customers_are_named(served: Served) -> None:
    somebody = next(iter(served.expected))
    unknown = ["nobody", *served.withdrawn, "else"]
    response = served.post(ask([somebody, *unknown, somebody, "nobody"]))
    assert response.status_code == 404
    assert response.json()["unknown_customers"] == unknown, "each once, in the order of the request"
    named = ", ".join(map(repr, unknown[:3]))
    more = f" and {len(unknown) - 3} more"
    assert response.json()["error"] == f"The online store serves no customer {named}{more}."
    for service in served.lookup.services:
        assert served.post(ask(["nobody", somebody], feature_service=service)).status_code == 404
    assert served.post(ask(served.withdrawn[:1], features=[FEATURE])).status_code == 404
    assert served.post(ask([somebody], features=[FEATURE])).status_code == 200


def test_unknown_customers_can_be_nulls_as_from_feast(served: Served) -> None:
    somebody = next(iter(served.expected))
    client = client_of(served.lookup, unknown_as_null=True)
    body = ask(["nobody", somebody])
    response = client.post(body)
    service = served.store.get_feature_service(ALL_FEATURES_SERVICE)
    theirs = served.store.get_online_features(service, body["entities"])
    assert response.status_code == 200
    assert response.json() == convert_response_to_dict(theirs.proto)
    assert response.json()["results"][1]["values"][0] is None


def test_a_feature_without_a_value_is_no_unknown_customer(served: Served, tmp_path: Path) -> None:
    """Null in what is asked for, but not in the whole view: an answer, not 404."""
    import pandas as pd

    store = open_store(fresh(tmp_path))
    apply(store)
    materialize(store, LAST_RUN)
    somebody = next(iter(served.expected))
    family = CATALOG.families[0]
    dtypes = {"integer": "Int32", "double": "Float64"}
    row = pd.DataFrame({KEY: [somebody], CATALOG.timestamp: [LAST_RUN]})
    for number, feature in enumerate(family.features):
        row[feature.name] = pd.array([None if number == 0 else 1], dtype=dtypes[feature.data_type])
    store.provider.ingest_df(store.get_feature_view(family.relation), row)
    client = client_of(OnlineLookup(tmp_path / "feature_store.yaml"))
    response = client.post(ask([somebody], features=[FEATURE]))
    assert response.status_code == 200, response.text
    assert response.json()["results"][1]["values"] == [None]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post(served: Served, method: str) -> None:
    response = served.client.request(method, ROUTE)
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert response.json()["error"] == f"{method} is not possible here; use POST."


@pytest.mark.parametrize(
    "path", ["/", "/push", "/materialize", "/write-to-online-store", "/docs", "/chat", f"{ROUTE}/", "/é%0a"]
)
def test_nothing_else_is_there(served: Served, path: str) -> None:
    """None of the routes by which Feast's server writes."""
    response = served.client.request("POST", path, [b"{}"], JSON_TYPE)
    assert response.status_code == 404
    assert_sentence(response)


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded", ""])
def test_other_media_types(served: Served, media_type: str | None) -> None:
    content = json.dumps(ask([SOMEBODY])).encode()
    headers = [] if media_type is None else [("content-type", media_type)]
    response = served.client.request("POST", ROUTE, [content], headers)
    assert response.status_code == 415
    assert response.json() == {"error": "Send the request as application/json."}


def test_json_with_a_charset_is_json(served: Served) -> None:
    content = json.dumps(ask([next(iter(served.expected))])).encode()
    headers = [("content-type", "Application/JSON; charset=utf-8")]
    assert served.client.request("POST", ROUTE, [content], headers).status_code == 200


def test_long_bodies_with_and_without_a_length(served: Served) -> None:
    part = b" " * 65_536
    announced = [*JSON_TYPE, ("content-length", str(MAX_BODY_BYTES + 1))]
    for parts, headers in [([b"{}"], announced), ([part] * 17, JSON_TYPE)]:
        response = served.client.request("POST", ROUTE, parts, headers)
        assert response.status_code == 413
        assert response.json() == {"error": "The body has more than 1,048,576 bytes."}
    allowed = json.dumps(ask([next(iter(served.expected))])).encode().ljust(MAX_BODY_BYTES)
    assert served.client.request("POST", ROUTE, [allowed], JSON_TYPE).status_code == 200


# --- the token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([("authorization", TOKEN)], 401),
        ([("authorization", "Bearer")], 401),
        ([("authorization", f"Bearer {TOKEN}x")], 401),
        ([("authorization", f"Bearer {TOKEN[:-1]}")], 401),
        ([("authorization", f"Basic {TOKEN}")], 401),
        ([("authorization", "Bearer \xff")], 401),
        ([("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")], 401),
        ([("authorization", f"Bearer {TOKEN}")], 200),
        ([("authorization", f"bearer {TOKEN}")], 200),
    ],
)
def test_token(served: Served, headers: list[tuple[str, Any]], status: int) -> None:
    client = client_of(served.lookup, token_digest=server.digest(TOKEN))
    response = client.post(ask([next(iter(served.expected))]), headers)
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
        assert_sentence(response)
        for path in ("/openapi.json", "/docs"):
            assert client.request("GET", path, headers=headers).status_code == 401
    assert client.request("GET", "/health").json() == {"status": "up"}, "open to whoever watches the server"


def test_tokens_are_read_from_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("SERVER_TOKEN", TOKEN)
    assert server.read_token(file=file) == server.read_token(variable="SERVER_TOKEN") == TOKEN
    assert server.read_token() is None
    for content, sentence in [
        (b"\n", "There is no token in the file"),
        (b"a b", "must be one word of printable ASCII characters."),
        ("geheimnisträger".encode(), "must be one word"),
        (b"\xff", "There is no token to be read in the file"),
    ]:
        file.write_bytes(content)
        with pytest.raises(StoreError, match=sentence):
            server.read_token(file=file)
    with pytest.raises(StoreError, match=r"no token to be read in the file .*nowhere"):
        server.read_token(file=tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no token in the environment variable NOWHERE"):
        server.read_token(variable="NOWHERE")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_another_address_needs_a_token(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    assert main(["serve", "--host", host, "--port", "0"]) == 1
    assert (
        f"{host} can be reached from other machines, so the server needs a token" in capsys.readouterr().err
    )


def test_addresses_that_cannot_be_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise AssertionError("the server started")

    monkeypatch.setattr(uvicorn.Server, "run", run)  # which would not end
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "cannot be taken: Address already in use." in capsys.readouterr().err
    monkeypatch.setenv("SERVER_TOKEN", TOKEN)
    assert main(["serve", "--host", "192.0.2.1", "--token-env", "SERVER_TOKEN"]) == 1, "not of this machine"
    assert "The address 192.0.2.1, port 6566, cannot be taken" in capsys.readouterr().err
    assert main(["serve", "--token-env", "NOWHERE"]) == 1
    assert "There is no token in the environment variable NOWHERE." in capsys.readouterr().err
    assert main(["serve", "--host", "no host"]) == 1
    assert "There is no address 'no host'" in capsys.readouterr().err
    for arguments in (
        ["--workers", "0"],
        ["--port", "99999"],
        ["--port", "x"],
        ["--token", TOKEN],
        ["--token-file", "a", "--token-env", "B"],
    ):
        with pytest.raises(SystemExit):
            main(["serve", *arguments])


# --- stores that cannot answer ------------------------------------------------------------------------------


def fresh(directory: Path) -> Path:
    """A configuration of a store in which nothing is applied."""
    return write_configuration(directory)


def test_a_store_that_is_not_ready(served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    somebody = next(iter(served.expected))
    lookup = OnlineLookup(fresh(tmp_path))
    client = client_of(lookup)

    def sentence(status: int) -> str:
        response = client.post(ask([somebody]))
        assert response.status_code == status, response.text
        if status != 200:
            assert_sentence(response)
        return response.json().get("error", "")

    assert sentence(503).endswith("yet; run `python -m feature_repo apply`.")
    assert client.request("GET", "/openapi.json").status_code == 200
    store = open_store(tmp_path / "feature_store.yaml")
    apply(store)
    take_over(lookup)
    assert sentence(503).endswith("has not been materialized yet; run `python -m feature_repo materialize`.")
    materialize(store, LAST_RUN)
    assert sentence(200) == "", "without a new look at the registry"
    take_over(lookup)
    assert sentence(200) == ""
    # The tables vanish under the running server.
    with closing(sqlite3.connect(store.config.online_store.path)) as connection:
        connection.execute(f"drop table {store.project}_{VIEW}")
    with caplog.at_level(logging.ERROR):
        assert sentence(503) == (
            "The online store (sqlite) cannot be read at the moment; the server's log says why."
        )
    assert "OperationalError" in caplog.text and "Traceback" not in caplog.text


@pytest.mark.parametrize("content", [None, "", "a: [", "project: x"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_configuration_that_cannot_be_read(
    content: str | None,
    workers: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "feature_store.yaml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(file))
    assert main(["serve", "--port", "0", "--workers", workers]) == 1
    error = capsys.readouterr().err
    assert f"The Feast configuration {file} cannot be read: " in error
    assert "Traceback" not in error and error.count("\n") == 1


def test_redis_that_is_silent_costs_a_moment(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each such look-up would hold one of the threads for ever."""
    monkeypatch.setattr(serving, "REDIS_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        configuration = of_redis(tmp_path, silent.getsockname()[1])
        apply(open_store(configuration))
        response = client_of(OnlineLookup(configuration)).post(ask([SOMEBODY]))
    assert response.status_code == 503
    assert response.json()["error"].startswith("The online store (redis) cannot be read at the moment")


def test_redis_that_is_gone(served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    configuration = of_redis(tmp_path, port)
    apply(open_store(configuration))
    with caplog.at_level(logging.ERROR):
        response = client_of(OnlineLookup(configuration)).post(ask([SOMEBODY]))
    assert response.status_code == 503
    assert response.json()["error"].startswith("The online store (redis) cannot be read at the moment")
    assert "ConnectionError" in caplog.text and "Traceback" not in caplog.text


def test_a_store_that_does_not_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    look_up = OnlineLookup.look_up

    def wait(self: OnlineLookup, *arguments: Any, **options: Any) -> Any:
        answers.wait()
        return look_up(self, *arguments, **options)

    monkeypatch.setattr(OnlineLookup, "look_up", wait)
    client = client_of(served.lookup, seconds_allowed=0.05)
    body = ask([next(iter(served.expected))])
    try:
        # More than there are threads.
        for _ in range(server.LOOKUP_THREADS + 2):
            response = client.post(body)
            assert response.status_code == 503
            assert response.json() == {"error": "The online store has not answered for 0.05 seconds."}
        assert client.request("GET", "/health").status_code == 200
    finally:
        answers.set()
    assert "has not answered for 0.05 seconds" in caplog.text


# --- a registry that changes --------------------------------------------------------------------------------


def take_over(lookup: OnlineLookup) -> None:
    """What the thread does with the file at two looks."""
    assert not lookup.refresh(), "a file that may still be written"
    assert lookup.refresh() and not lookup.refresh()


def test_a_changed_registry_is_taken_over(
    served: Served, warehouse: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configuration = fresh(tmp_path)
    store = open_store(configuration)
    apply(store)
    materialize(store, LAST_RUN)
    lookup = OnlineLookup(configuration)
    somebody = next(iter(served.expected))
    before = lookup.look_up([somebody], feature_service="churn_v1")
    assert not lookup.refresh() and not lookup.refresh()

    registry = Path(store.config.registry.path)
    whole = registry.read_bytes()
    registry.write_bytes(whole[: len(whole) // 2])
    assert not lookup.refresh()
    with caplog.at_level(logging.ERROR):
        lookup.refresh()
    assert lookup.look_up([somebody], feature_service="churn_v1") == before
    registry.write_bytes(whole)
    lookup.refresh(), lookup.refresh()
    assert lookup.look_up([somebody], feature_service="churn_v1") == before

    # As during a nightly run: Feast refuses look-ups in this state unless the configuration allows them.
    for view in registered_views(store):
        store.set_feature_view_state(view.name, FeatureViewState.MATERIALIZING)
    take_over(lookup)
    assert lookup.look_up([somebody], feature_service="churn_v1") == before
    store.delete_feature_service("churn_v1")
    assert "churn_v1" in lookup.services, "until it is looked at again"
    take_over(lookup)
    assert "churn_v1" not in lookup.services


def test_look_ups_never_read_the_registry(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from feast.infra.registry.registry import Registry

    lookup = OnlineLookup()

    def read(*arguments: object, **options: object) -> None:
        raise AssertionError("a look-up read the registry")

    for name in ("_get_registry_proto", "refresh", "proto"):
        monkeypatch.setattr(Registry, name, read)
    somebody = next(iter(served.expected))
    for service in lookup.services:
        assert lookup.look_up([somebody], feature_service=service)["results"]
    assert lookup.look_up([somebody], features=[FEATURE])["results"]
    with pytest.raises(StoreUnavailable):
        lookup._served.registry.views.clear()  # type: ignore[attr-defined]
        lookup.look_up([somebody], features=[FEATURE])


def test_lists_of_features_are_not_remembered(served: Served) -> None:
    """Feast would keep each list that was ever asked for, of which there are 2 to the 59th."""
    from feast import utils

    somebody = next(iter(served.expected))
    served.lookup.look_up([somebody], feature_service=ALL_FEATURES_SERVICE)
    kept = len(utils._feature_resolution_cache)
    for feature in served.lookup.features:
        served.lookup.look_up([somebody], features=[feature])
    assert len(utils._feature_resolution_cache) == kept


# --- anything that may come ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


def test_random_json_is_never_a_server_error(served: Served) -> None:
    somebody = next(iter(served.expected))
    names = st.lists(st.sampled_from([somebody, "nobody"]) | st.text(max_size=9), min_size=1, max_size=3)
    service = st.sampled_from(served.lookup.services) | st.text(max_size=9)
    features = st.lists(st.sampled_from(served.lookup.features) | st.text(), min_size=1, max_size=3)
    customers = st.fixed_dictionaries({KEY: names})
    good = st.fixed_dictionaries({"entities": customers, "feature_service": service}) | st.fixed_dictionaries(
        {"entities": customers, "features": features}
    )
    nearly = st.fixed_dictionaries(
        {"entities": customers | st.dictionaries(st.sampled_from([KEY, "customer", ""]), JSON) | JSON},
        optional={
            "feature_service": service | JSON,
            "features": features | JSON,
            "full_feature_names": st.booleans() | JSON,
            "include_feature_view_version_metadata": st.booleans() | JSON,
        },
    )
    seen: set[int] = set()

    @settings(PROPERTIES, max_examples=400, derandomize=True)
    @given(good | nearly | JSON)
    def check(body: Any) -> None:
        content = json.dumps(body).encode(errors="surrogatepass")
        response = served.client.request("POST", ROUTE, [content], JSON_TYPE)
        seen.add(response.status_code)
        if response.status_code != 200:
            assert response.status_code in (400, 404, 422), response.text
            assert_sentence(response)

    check()
    assert {200, 404, 422} <= seen, "the bodies are near enough to good ones to get past the first check"


def test_schemathesis_finds_no_server_error(served: Served) -> None:
    """Every request that the OpenAPI document allows or forbids is answered as the document says."""
    app = server.create_app(served.lookup, server.digest(TOKEN))
    headers = {"authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    statuses = {
        operation.path: fuzz(operation, mode, headers, next(iter(served.expected)))
        for operation in (result.ok() for result in schema.get_all_operations())
        for mode in schemathesis.GenerationMode
        if operation.body or mode is schemathesis.GenerationMode.POSITIVE
    }
    assert statuses["/health"] == {200}
    assert statuses[ROUTE] >= {422}


def fuzz(operation: Any, mode: schemathesis.GenerationMode, headers: Any, somebody: str) -> set[int]:
    """The status codes with which an operation answers, all checks of schemathesis passed."""
    statuses: set[int] = set()
    # Without ignored_auth: it asks again without a token, but with the header given here. See test_token.

    @settings(PROPERTIES, max_examples=60, derandomize=True, database=None)
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def check(case: Any, known: bool) -> None:
        body = case.body
        if known and mode is schemathesis.GenerationMode.POSITIVE and isinstance(body, dict):
            # Else no example would ever name a customer who is served.
            body["entities"] = {KEY: [somebody]}
        response = case.call_and_validate(headers=headers, excluded_checks=[ignored_auth])
        statuses.add(response.status_code)
        assert response.status_code < 500

    check()
    if mode is schemathesis.GenerationMode.POSITIVE and operation.path == ROUTE:
        assert statuses == {200, 404}
    return statuses


# --- the processes ------------------------------------------------------------------------------------------


@contextmanager
def running(command: list[str], configuration: Path, port: int | None = None) -> Iterator[tuple[Any, str]]:
    """A started server and its URL, which it prints unless the port is given."""
    with subprocess.Popen(
        command,
        cwd=paths.feature_repo_dir() if port else paths.repository_root(),
        env=os.environ | {"FEAST_FS_YAML_FILE_PATH": str(configuration)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        # Whatever goes wrong, the test ends: with the process ends what it writes.
        watch = threading.Timer(PROCESS_SECONDS, process.kill)
        watch.start()
        try:
            url = f"http://127.0.0.1:{port}"
            assert process.stdout is not None
            for line in process.stdout:
                if port is not None and "Listening at" in line:
                    break
                if port is None and (found := re.search(r"serving on (\S+);", line)):
                    url = found[1]
                    break
            yield process, url
        finally:
            watch.cancel()
            process.terminate()
            process.communicate(timeout=PROCESS_SECONDS)


def get(url: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
    request = Request(url, json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read() or b"null")
    except HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_command_serves(served: Served, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two processes, a token out of a file, an end without a trace; the answers of `feast serve`."""
    configuration = Path(os.environ["FEAST_FS_YAML_FILE_PATH"])
    token = tmp_path / "token"
    token.write_text(TOKEN)
    body = ask(sorted(served.expected)[:3])
    ours = [sys.executable, "-m", "feature_repo", "serve", "--port", "0", "--workers", "2"]
    with running([*ours, "--token-file", str(token)], configuration) as (process, url):
        assert get(f"{url}/health") == (200, {"status": "up"})
        assert get(url + ROUTE, body)[0] == 401
        status, answer = get(url + ROUTE, body, TOKEN)
        assert status == 200
        assert TOKEN not in " ".join(process.args)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=PROCESS_SECONDS)[0]
    assert process.returncode == 0 and "Traceback" not in output, output
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    feast = str(Path(sys.executable).with_name("feast"))
    with running([feast, "serve", "--port", str(port)], configuration, port) as (_, url):
        status, theirs = get(url + ROUTE, body)
    assert status == 200 and by_name(theirs) == by_name(answer)


def test_feast_reads_from_the_server_as_a_remote_online_store(served: Served, tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(server.create_app(served.lookup), log_level="warning", log_config=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        file = fresh(tmp_path)
        remote = yaml.safe_load(file.read_text())
        remote["registry"]["path"] = str(served.store.config.registry.path)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        remote["online_store"] = {"type": "remote", "path": url}
        file.write_text(yaml.safe_dump(remote))
        customers = sorted(served.expected)
        store = open_store(file)
        for name in served.lookup.services:
            answer, expected = (
                each.get_online_features(each.get_feature_service(name), {KEY: customers}).to_dict()
                for each in (store, served.store)
            )
            assert repr(sorted_keys(answer)) == repr(sorted_keys(expected))
    finally:
        running.should_exit = True
        thread.join()
