"""Feast serves what dbt builds: the catalog, the definitions, point-in-time retrieval, materialization, the
CLI."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore, FeatureViewState
from feast.repo_config import load_repo_config
from feast.repo_operations import get_repo_files

from feature_repo import check, paths
from feature_repo.__main__ import main
from feature_repo.build import TTL, build_definitions
from feature_repo.catalog import (
    ALL_FEATURES_SERVICE,
    FAMILY_ORDER,
    FEATURE_COUNT,
    WIDE_RELATION,
    CatalogError,
    FeatureCatalog,
    load_catalog,
    parse_catalog,
)
from feature_repo.offline import ARROW_TYPES, EVENT_TIMESTAMP, historical_features, historical_table
from feature_repo.predictions import PREDICTIONS_RELATION, PREDICTIONS_SERVICE, load_predictions
from feature_repo.store import (
    StoreError,
    apply,
    materialize,
    newest_snapshot,
    open_store,
    progress_mark,
    registered_views,
)

CATALOG = load_catalog()
FIRST_RUN = datetime(2026, 6, 22)
"""The as-of date of the first dbt run of the synthetic warehouse; every day after it has a run of its own."""
LAST_RUN = datetime(2026, 7, 1)
WEEKS = 12
VIEWS = len(CATALOG.families) + 1
"""Of the families and of the predictions."""


@dataclass(frozen=True)
class Warehouse:
    """What a dbt build leaves: the DuckDB file and the Parquet exports."""

    path: Path
    exports: Path


def synthetic_snapshots(catalog: FeatureCatalog, seed: int = 7) -> pd.DataFrame:
    """Rows of ``customer_features`` with random values: weekly snapshots, then daily ones; customers come and
    go."""
    random = np.random.default_rng(seed)
    weekly = [FIRST_RUN - timedelta(weeks=week) for week in reversed(range(WEEKS))]
    daily = pd.date_range(FIRST_RUN + timedelta(days=1), LAST_RUN).to_pydatetime()
    times = [*weekly, *daily]
    rows = []
    for number in range(60):
        enters, leaves = sorted(random.integers(0, len(times) + 6, 2))
        pause = random.integers(0, len(times))
        if number % 3 == 0:
            leaves = len(times)
        rows += [
            (f"customer-{number:03}", time)
            for index, time in enumerate(times)
            if enters <= index <= leaves and not (number % 5 == 0 and pause <= index < pause + 4)
        ]
    frame = pd.DataFrame(rows, columns=[catalog.entity_key, catalog.timestamp])
    for feature in catalog.features:
        if feature.data_type == "integer":
            frame[feature.name] = random.integers(-1, 1_000, len(frame)).astype(np.int32)
        else:
            # Values that a detour through decimals or 32 bits would change, zeros of both signs among them.
            values = random.normal(0, 1, len(frame)) * 10.0 ** random.integers(-12, 12, len(frame))
            values[random.random(len(frame)) < 0.05] = -0.0
            frame[feature.name] = values
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def synthetic_predictions(frame: pd.DataFrame, catalog: FeatureCatalog, seed: int = 8) -> pa.Table:
    """Rows of ``customer_predictions`` for the snapshots of ``frame``, with random values and nulls."""
    random = np.random.default_rng(seed)
    columns = {
        catalog.entity_key: pa.array(frame[catalog.entity_key], pa.string()),
        catalog.timestamp: pa.array(frame[catalog.timestamp], pa.timestamp("us")),
    }
    for column in load_predictions().columns:
        if column.data_type == "double":
            missing = random.random(len(frame)) < (0.8 if column.name == "first_session_success" else 0)
            columns[column.name] = pa.array(random.normal(0, 1, len(frame)), mask=missing)
        else:
            words = ["v1"] if column.name == "model_version" else ["häufig", "selten", "nie"]
            columns[column.name] = pa.array(random.choice(words, len(frame)).tolist(), pa.string())
    return pa.table(columns)


def write_warehouse(directory: Path, frame: pd.DataFrame, catalog: FeatureCatalog) -> Warehouse:
    """Write ``frame`` as dbt does: tables of features and predictions, an export file a relation and run."""
    warehouse = Warehouse(directory / "warehouse.duckdb", directory / "features")
    types = {feature.name: ARROW_TYPES[feature.data_type] for feature in catalog.features}
    keys = {catalog.entity_key: pa.string(), catalog.timestamp: pa.timestamp("us")}
    wide = pa.Table.from_pandas(frame, schema=pa.schema(keys | types), preserve_index=False)
    relations = {family.relation: [f.name for f in family.features] for family in catalog.families}
    runs = frame[catalog.timestamp].clip(lower=pd.Timestamp(FIRST_RUN)).dt.strftime("%Y-%m-%d")
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("create schema features")
        connection.execute("create schema predictions")
        connection.register("wide", wide)
        connection.execute(f"create table features.{WIDE_RELATION} as select * from wide")
        for relation, names in relations.items():
            table = wide.select([*keys, *names])
            connection.register("family", table)
            connection.execute(f"create table features.{relation} as select * from family")
        predictions = synthetic_predictions(frame, catalog)
        connection.register("predicted", predictions)
        connection.execute(
            f"""
            create table predictions.{PREDICTIONS_RELATION} as
            select *, now()::timestamp as scored_at, 'run' as run_id from predicted
            """
        )
        connection.execute(
            "create table predictions.model_versions as select 'v1' as model_version, true as is_champion"
        )
        for relation, rows in ((WIDE_RELATION, wide), (PREDICTIONS_RELATION, predictions)):
            (warehouse.exports / relation).mkdir(parents=True)
            for run in runs.unique():
                of_run = rows.filter(pa.array(runs == run))
                pq.write_table(of_run, warehouse.exports / relation / f"{run}.parquet")
    return warehouse


def write_configuration(directory: Path) -> Path:
    """The repository's feature_store.yaml with registry and online store in ``directory``."""
    config = yaml.safe_load((paths.feature_repo_dir() / "feature_store.yaml").read_text())
    config["registry"]["path"] = str(directory / "state" / "feast" / "registry.db")
    config["online_store"]["path"] = str(directory / "state" / "feast" / "online.db")
    file = directory / "feature_store.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return write_warehouse(tmp_path_factory.mktemp("warehouse"), synthetic_snapshots(CATALOG), CATALOG)


@pytest.fixture
def store(warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A fresh feature store over the synthetic exports: applied, nothing materialized."""
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(write_configuration(tmp_path)))
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(warehouse.exports))
    monkeypatch.setenv("WAREHOUSE_PATH", str(warehouse.path))
    store = open_store()
    apply(store)
    return store


def pairs_at(time: datetime, customers: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {CATALOG.entity_key: customers, EVENT_TIMESTAMP: pd.Timestamp(time, tz="UTC").as_unit("us")}
    )


def all_customers(warehouse: Warehouse) -> list[str]:
    with duckdb.connect(str(warehouse.path), read_only=True) as connection:
        rows = connection.execute(
            f"select distinct {CATALOG.entity_key} from features.{WIDE_RELATION} order by 1"
        )
        return [row[0] for row in rows.fetchall()]


# --- the catalog --------------------------------------------------------------------------------------------


def test_catalog_orders_features_and_families() -> None:
    assert [feature.position for feature in CATALOG.features] == list(range(1, FEATURE_COUNT + 1))
    assert tuple(family.name for family in CATALOG.families) == FAMILY_ORDER
    in_families = [feature for family in CATALOG.families for feature in family.features]
    assert sorted(in_families, key=lambda feature: feature.position) == list(CATALOG.features)
    assert CATALOG.service(ALL_FEATURES_SERVICE) == CATALOG.names
    for service, names in CATALOG.services.items():
        assert names == tuple(name for name in CATALOG.names if name in names), service
        if service != ALL_FEATURES_SERVICE:
            assert set(names) == {f.name for f in CATALOG.features if service in f.feature_services}


Document = dict


def wide(document: Document) -> list[dict]:
    return document["models"][0]["columns"]


def set_meta(document: Document, index: int, **values: object) -> None:
    wide(document)[index]["config"]["meta"].update(values)


def replace_in_family(document: Document, **values: object) -> None:
    columns = document["models"][1]["columns"]
    columns[2] = copy.deepcopy(columns[2]) | values


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda d: d["models"].pop(3), "defines no model 'customer_engagement_features'"),
        (
            lambda d: set_meta(d, 3, position=1),
            "Position 1 is taken by session_count_7d and session_count_14d",
        ),
        (lambda d: set_meta(d, 3, position=60), "without position 2"),
        (lambda d: wide(d).pop(), "there are 58 features"),
        (lambda d: wide(d).append(wide(d)[5]), "'session_frequency_7d' is defined 2 times"),
        (lambda d: wide(d).insert(2, wide(d).pop(3)), "lists 'session_count_14d' in the place of position 1"),
        (
            lambda d: wide(d)[2].update(data_type="bigint"),
            "has the data type 'bigint', expected integer or double",
        ),
        (lambda d: wide(d)[2]["config"]["meta"].pop("unit"), "'session_count_7d' has no config.meta.unit"),
        (lambda d: set_meta(d, 2, family="calls"), "is of the family 'calls', expected session, call"),
        (lambda d: set_meta(d, 2, family="call"), "has the feature 'session_count_7d' of the family 'call'"),
        (lambda d: d["models"][1]["columns"].pop(2), "lacks the feature 'session_count_7d'"),
        (
            lambda d: d["models"][1]["columns"].append(wide(d)[2]),
            "has the feature 'session_count_7d' more than once",
        ),
        (lambda d: replace_in_family(d, name="unheard_of"), "column 'unheard_of', which is not a feature"),
        (lambda d: replace_in_family(d, data_type="double"), "defines the feature 'session_count_7d' unlike"),
        (lambda d: d["models"][1]["columns"].pop(0), "must start with customer_id and feature_timestamp"),
        (lambda d: set_meta(d, 2, feature_services=[ALL_FEATURES_SERVICE]), "it has every feature anyway"),
    ],
)
def test_catalog_says_what_contradicts_itself(damage: Callable[[Document], object], sentence: str) -> None:
    # A copy of each model, so that a change of a feature in one of them leaves the others alone.
    document = yaml.safe_load(paths.features_yaml().read_text())
    document = {"models": [copy.deepcopy(model) for model in document["models"]]}
    damage(document)
    with pytest.raises(CatalogError) as error:
        parse_catalog(document)
    assert sentence in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_catalog_names_the_missing_file_and_the_unknown_service(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"there is no file .*nothing\.yml"):
        load_catalog(tmp_path / "nothing.yml")
    with pytest.raises(CatalogError, match="no feature service 'churn_v0'; the catalog has churn_v1"):
        CATALOG.service("churn_v0")


def test_paths_are_relative_to_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAW_DATA_DIR", "elsewhere/raw")
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("FEATURE_EXPORT_DIR", "")
    assert paths.raw_data_dir() == paths.repository_root() / "elsewhere" / "raw"
    assert paths.models_dir() == tmp_path / "models"
    assert paths.feature_export_dir() == paths.repository_root() / "data" / "features"


# --- the definitions ----------------------------------------------------------------------------------------


def test_feast_scans_one_file() -> None:
    assert [file.name for file in get_repo_files(paths.feature_repo_dir())] == ["definitions.py"]


def test_services_list_the_features_of_the_catalog(store: FeatureStore) -> None:
    registered = {service.name: service for service in store.list_feature_services()}
    assert set(registered) == {*CATALOG.services, PREDICTIONS_SERVICE}
    for name, service in registered.items():
        served = [
            feature.name for projection in service.feature_view_projections for feature in projection.features
        ]
        if name == PREDICTIONS_SERVICE:
            assert served == list(load_predictions().names)
            continue
        in_family_order = [f.name for family in CATALOG.families for f in family.features]
        assert served == [feature for feature in in_family_order if feature in CATALOG.service(name)]


def test_views_carry_types_and_descriptions(store: FeatureStore) -> None:
    views = registered_views(store)
    relations = [family.relation for family in CATALOG.families]
    assert [view.name for view in views] == [*relations, PREDICTIONS_RELATION]
    for view, family in zip(views, CATALOG.families, strict=False):
        assert [field.name for field in view.features] == [feature.name for feature in family.features]
        assert view.join_keys == [CATALOG.entity_key] and view.ttl == TTL
        for field, feature in zip(view.features, family.features, strict=True):
            assert check.WAREHOUSE_TYPES[str(field.dtype)] == feature.data_type
            assert field.description == feature.description
            assert field.tags["unit"] == feature.unit
            assert field.tags.get("window_days") == (feature.window_days and str(feature.window_days))


def test_columns_agree_with_warehouse_and_export(warehouse: Warehouse) -> None:
    views = list(build_definitions(CATALOG, warehouse.exports).views)
    assert check.column_differences(views, check.warehouse_columns(warehouse.path)) == []
    assert check.column_differences(views, check.export_columns(warehouse.exports)) == []


def test_columns_agree_with_the_manifest_of_dbt(tmp_path: Path) -> None:
    environment = os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
    dbt = Path(sys.executable).with_name("dbt")
    command = [dbt, "parse", "--quiet", "--target-path", tmp_path / "target", "--log-path", tmp_path / "logs"]
    parsed = subprocess.run(
        command, cwd=paths.repository_root(), env=environment, capture_output=True, text=True, check=False
    )
    assert parsed.returncode == 0, parsed.stdout + parsed.stderr
    columns = check.manifest_columns(tmp_path / "target" / "manifest.json")
    assert check.column_differences(list(build_definitions().views), columns) == []


def test_column_differences_are_named(warehouse: Warehouse) -> None:
    views = list(build_definitions(CATALOG, warehouse.exports).views)
    relations = check.warehouse_columns(warehouse.path)
    session, call, engagement, payment, *_ = (family.relation for family in CATALOG.families)
    name, data_type = relations[session][2]
    relations[session][2] = (name, "bigint")
    assert check.column_differences(views, relations) == [
        f"{session}.{name} is {data_type} in Feast, but bigint in the relation."
    ]
    relations[session][2] = (name, data_type)
    renamed = relations[call][3][0]
    relations[call][3] = ("renamed", "integer")
    assert check.column_differences(views, relations) == [
        f"{call}.{renamed} is served by Feast, but is no column of the relation.",
        f"{call}.renamed is a column of the relation, but not served by Feast.",
    ]
    relations[call][3] = (renamed, "integer")
    relations[engagement].reverse()
    del relations[payment]
    assert check.column_differences(views, relations) == [
        f"{engagement} has its columns in another order in Feast than in the relation.",
        f"{payment} is a feature view, but there is no such relation.",
    ]


# --- offline and online -------------------------------------------------------------------------------------


def test_warehouse_offline_and_online_agree_to_the_last_bit(
    store: FeatureStore, warehouse: Warehouse
) -> None:
    pairs = check.sample_pairs(warehouse.path, moments=10, customers=50, seed=3)
    assert len(pairs) == 500
    found = check.warehouse_values(warehouse.path, pairs).column(CATALOG.names[0])
    assert 50 < found.null_count < 450, "the sample must have customers in scope and out of scope"
    assert check.value_differences(store, warehouse.path, pairs) == []


def test_a_difference_would_be_found(store: FeatureStore, warehouse: Warehouse) -> None:
    pairs = pairs_at(LAST_RUN, all_customers(warehouse))
    expected = check.warehouse_values(warehouse.path, pairs)
    materialize(store)
    assert check.online_differences(store, expected, pairs) == []
    integer = next(f.name for f in CATALOG.features if f.data_type == "integer")
    double = next(f.name for f in CATALOG.features if f.data_type == "double")
    for name in (integer, double):
        values = expected.column(name).to_numpy(zero_copy_only=False).copy()
        row = int(np.flatnonzero(~np.isnan(values.astype(float)))[0])
        values[row] = values[row] + 1 if name == integer else np.nextafter(values[row], np.inf)
        column = pa.array(values, expected.schema.field(name).type, from_pandas=True)
        changed = expected.set_column(expected.column_names.index(name), name, column)
        (difference,) = check.online_differences(store, changed, pairs)
        assert difference.startswith(f"{name} of {pairs[CATALOG.entity_key][row]} at ")


def test_retrieval_at_the_edges_of_a_snapshot(store: FeatureStore, warehouse: Warehouse) -> None:
    # A customer who left scope gets the last snapshot until the ttl has passed, then nothing.
    key, time = CATALOG.entity_key, CATALOG.timestamp
    with duckdb.connect(str(warehouse.path), read_only=True) as connection:
        rows = connection.execute(
            f"""
            select {key}, {time}, {CATALOG.names[0]} from features.{WIDE_RELATION}
            window customers as (partition by {key})
            qualify max({time}) over customers < $first_run and count(*) over customers > 2
            order by 1, 2
            """,
            {"first_run": FIRST_RUN},
        ).fetchall()
    customer, first, _ = rows[0]
    *_, (_, previous, before), (_, last, value) = (row for row in rows if row[0] == customer)
    assert last - previous == TTL, "a weekly snapshot is in force until the next one"
    tick = timedelta(microseconds=1)
    times = [first - tick, last - tick, last, last + tick, last + TTL, last + TTL + tick]
    pairs = pd.concat([pairs_at(at, [customer]) for at in times], ignore_index=True)
    found = historical_table(store, pairs, ALL_FEATURES_SERVICE).column(CATALOG.names[0]).to_pylist()
    assert found == [None, before, value, value, value, None]


def test_rows_keep_order_count_columns_and_index(store: FeatureStore, warehouse: Warehouse) -> None:
    service = min(CATALOG.services, key=lambda name: len(CATALOG.services[name]))
    pairs = check.sample_pairs(warehouse.path, moments=30, customers=20, seed=11)
    # Enough rows that DuckDB's threads finish out of turn, most of them repeated.
    rows = pd.concat([pairs] * 50).sample(frac=1, random_state=2)
    rows["label"] = np.arange(len(rows))
    rows["note"] = "n"
    naive = rows.assign(**{EVENT_TIMESTAMP: rows[EVENT_TIMESTAMP].dt.tz_localize(None)})
    for given in (rows, naive):
        found = historical_features(store, given, service)
        assert found.columns.tolist() == [*given.columns, *CATALOG.service(service)]
        pd.testing.assert_frame_equal(found[given.columns.tolist()], given)
        expected = check.warehouse_values(warehouse.path, rows).select(CATALOG.service(service))
        assert historical_table(store, given, service).equals(expected.combine_chunks())
    complete = found[found[CATALOG.service(service)[0]].notna()]
    again = historical_features(store, complete[[CATALOG.entity_key, EVENT_TIMESTAMP]], service)
    for name in CATALOG.service(service):
        assert again[name].dtype == ARROW_TYPES[CATALOG.feature(name).data_type].to_pandas_dtype()
    empty = historical_features(store, rows.iloc[:0], service)
    assert len(empty) == 0 and empty.columns.tolist() == [*rows.columns, *CATALOG.service(service)]


def test_retrieval_refuses_rows_that_it_cannot_serve(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pairs_at(LAST_RUN, ["customer-000", "customer-001"])
    with pytest.raises(ValueError, match="no column 'event_timestamp'"):
        historical_features(store, rows.drop(columns=EVENT_TIMESTAMP), ALL_FEATURES_SERVICE)
    with pytest.raises(ValueError, match="nulls in 'customer_id'"):
        historical_features(store, rows.replace("customer-001", None), ALL_FEATURES_SERVICE)
    with pytest.raises(ValueError, match="already have a column"):
        historical_features(store, rows.assign(**{CATALOG.names[4]: 1}), ALL_FEATURES_SERVICE)
    with pytest.raises(CatalogError, match="no feature service 'nonsense'"):
        historical_features(store, rows, "nonsense")


# --- materialization ----------------------------------------------------------------------------------------


def online_agrees(store: FeatureStore, warehouse: Warehouse, time: datetime) -> bool:
    pairs = pairs_at(time, all_customers(warehouse))
    return check.online_differences(store, check.warehouse_values(warehouse.path, pairs), pairs) == []


def test_materialize_repeats_and_never_goes_back(store: FeatureStore, warehouse: Warehouse) -> None:
    assert newest_snapshot() == LAST_RUN.replace(tzinfo=UTC)
    first = materialize(store, FIRST_RUN)
    assert first.withdrawn == 0 and online_agrees(store, warehouse, FIRST_RUN)
    second = materialize(store)
    assert second.as_of == newest_snapshot() and second.withdrawn > 0
    assert online_agrees(store, warehouse, LAST_RUN)
    third = materialize(store)
    assert (third.customers, third.withdrawn) == (second.customers, 0)
    assert online_agrees(store, warehouse, LAST_RUN)
    with pytest.raises(StoreError, match="already serves 2026-07-01 00:00; going back to 2026-06-30"):
        materialize(store, LAST_RUN - timedelta(days=1))


def test_feast_apply_keeps_the_progress_mark(
    store: FeatureStore, warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    """`apply` before `materialize-incremental` once lost the mark (feast issues 2905 and 3228)."""
    assert [progress_mark(view) for view in registered_views(store)] == [None] * VIEWS
    # First run: no mark yet, and the data end long before (or after) the clock of the machine that runs this.
    store.materialize_incremental(FIRST_RUN)
    assert {progress_mark(view) for view in registered_views(store)} == {FIRST_RUN.replace(tzinfo=UTC)}
    in_force = pairs_at(FIRST_RUN, all_customers(warehouse))
    expected = check.warehouse_values(warehouse.path, in_force)
    held = pa.compute.is_valid(expected.column(CATALOG.names[0]))
    assert 0 < sum(held.to_pylist()) < len(in_force)
    rows = in_force[held.to_numpy()].reset_index(drop=True)
    assert check.online_differences(store, expected.filter(held), rows) == []

    marks = [view.materialization_intervals for view in registered_views(store)]
    for _ in range(2):
        apply(open_store())
        assert [view.materialization_intervals for view in registered_views(open_store())] == marks

    store = open_store()
    capsys.readouterr()
    store.materialize_incremental(LAST_RUN)
    printed = capsys.readouterr().out
    assert printed.count(f"from \x1b[1m\x1b[32m{FIRST_RUN}+00:00") == VIEWS, printed
    assert {progress_mark(view) for view in registered_views(store)} == {LAST_RUN.replace(tzinfo=UTC)}
    materialize(store)  # Feast alone goes on serving customers who left scope
    assert online_agrees(store, warehouse, LAST_RUN)


def test_a_new_feature_is_materialized_for_everybody(store: FeatureStore, warehouse: Warehouse) -> None:
    definitions = build_definitions()
    view = definitions.views[1]
    added = view.features.pop()
    view.projection.features.pop()
    fewer = build_definitions()
    before = dict(zip([v.name for v in fewer.views], fewer.views, strict=True))
    before[view.name] = view
    services = tuple(service for service in fewer.services if service.name not in CATALOG.services)
    apply(store, type(definitions)(fewer.entity, fewer.sources, tuple(before.values()), services))
    store.materialize_incremental(LAST_RUN)
    assert added.name not in [field.name for field in store.get_feature_view(view.name).features]
    apply(store)
    assert progress_mark(store.get_feature_view(view.name)) is None, "the changed view must start again"
    assert progress_mark(store.get_feature_view(fewer.views[0].name)) is not None
    materialize(store)
    assert online_agrees(store, warehouse, LAST_RUN)


def test_lookups_go_on_while_materializing_and_after_a_kill(
    store: FeatureStore, warehouse: Warehouse
) -> None:
    """Feast refuses look-ups of a view in the state MATERIALIZING (feast issue 6780), unless told
    otherwise."""
    materialize(store, LAST_RUN)
    for view in registered_views(store):
        store.set_feature_view_state(view.name, FeatureViewState.MATERIALIZING)
    server = open_store()
    assert {view.state for view in registered_views(server)} == {FeatureViewState.MATERIALIZING}
    assert online_agrees(server, warehouse, LAST_RUN)
    server.registry.serve_features_while_materializing = False
    with pytest.raises(ValueError, match="MATERIALIZING"):
        check.online_values(server, ["customer-000"])
    materialize(open_store(), LAST_RUN)
    assert {view.state for view in registered_views(open_store())} == {FeatureViewState.AVAILABLE_ONLINE}


def test_apply_follows_moved_exports(
    store: FeatureStore, warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize(store, FIRST_RUN)
    moved = tmp_path / "moved"
    moved.symlink_to(warehouse.exports.parent)
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-r", warehouse.exports, copied], check=True)
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(moved / warehouse.exports.name))
    assert materialize(store, FIRST_RUN).customers > 0, "the same directory by another name"
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(copied))
    with pytest.raises(StoreError, match=r"is registered to read .* run `python -m feature_repo apply`"):
        materialize(store)
    apply(store)
    assert {Path(view.batch_source.path).parent for view in registered_views(store)} == {copied}
    assert {progress_mark(view) for view in registered_views(store)} == {FIRST_RUN.replace(tzinfo=UTC)}
    materialize(store)
    assert online_agrees(store, warehouse, LAST_RUN)
    for file in copied.glob("*/*.parquet"):
        file.unlink()
    with pytest.raises(StoreError, match=r"There is no Parquet file in .* run `dbt build` first"):
        materialize(store)


# --- the command line ---------------------------------------------------------------------------------------


def test_commands_of_the_package(
    store: FeatureStore, warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["apply"]) == 0
    assert (
        "7 feature views with 59 features and 13 predictions, 6 feature services" in capsys.readouterr().out
    )
    assert main(["check", "--values", "10"]) == 1
    assert "run `python -m feature_repo materialize` first" in capsys.readouterr().err
    assert main(["materialize", "--as-of", "2026-06-30"]) == 0
    assert "as of 2026-06-30 00:00 UTC" in capsys.readouterr().out
    assert main(["materialize"]) == 0
    assert "as of 2026-07-01 00:00 UTC" in capsys.readouterr().out
    assert main(["check", "--values", "40"]) == 0
    assert "warehouse = offline = online: agrees" in capsys.readouterr().out
    assert main(["materialize", "--as-of", "2026-06-30"]) == 1
    assert "already serves" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["materialize", "--as-of", "yesterday"])


def test_commands_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(write_configuration(tmp_path)))
    for variable in ("FEATURE_EXPORT_DIR", "WAREHOUSE_PATH", "DBT_TARGET_PATH"):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    assert main(["check"]) == 1
    assert "nothing to compare with" in capsys.readouterr().err
    assert main(["materialize"]) == 1
    assert "There is no Parquet file" in capsys.readouterr().err
    assert main(["materialize", "--as-of", "2026-07-01"]) == 1
    assert "run `python -m feature_repo apply` first" in capsys.readouterr().err
    assert main(["apply"]) == 0, "the exports may come later"


def test_feast_apply_and_materialize_in_the_folder(warehouse: Warehouse, tmp_path: Path) -> None:
    """What Feast's users type, in another time zone and with nothing but Feast's own commands."""
    environment = os.environ | {
        "FEAST_FS_YAML_FILE_PATH": str(write_configuration(tmp_path)),
        "FEATURE_EXPORT_DIR": str(warehouse.exports),
        "TZ": "America/New_York",
    }
    environment.pop("PYTHONPATH", None)
    # What `make setup` installs is found anyhow; a checkout that is not installed is found so.
    found_so = {"PYTHONPATH": str(paths.repository_root())}

    def run(*command: object, **variables: str) -> str:
        done = subprocess.run(
            [*map(str, command)],
            cwd=paths.feature_repo_dir(),
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    feast = Path(sys.executable).with_name("feast")
    applied = run(feast, "apply")
    assert all(family.relation in applied for family in CATALOG.families)
    assert "No changes to registry" in run(feast, "apply")
    run(feast, "materialize-incremental", f"{LAST_RUN:%Y-%m-%dT%H:%M:%S}", **found_so)

    # The same values, read in the same other time zone.
    frame = pairs_at(LAST_RUN, all_customers(warehouse))
    expected = check.warehouse_values(warehouse.path, frame)
    held = pa.compute.is_valid(expected.column(CATALOG.names[0]))
    frame, expected = frame[held.to_numpy()].reset_index(drop=True), expected.filter(held)
    pq.write_table(expected, tmp_path / "expected.parquet")
    frame.to_parquet(tmp_path / "pairs.parquet")
    found = run(sys.executable, "-W", "ignore", "-c", SAME_VALUES, paths.repository_root(), tmp_path)
    assert f"{len(frame)} customers agree" in found


SAME_VALUES = """
import sys
root, directory = sys.argv[1:]
sys.path.insert(0, root)
import pandas as pd, pyarrow.parquet as pq
from feature_repo import check, offline, store
pairs = pd.read_parquet(directory + "/pairs.parquet")
expected = pq.read_table(directory + "/expected.parquet")
feast = store.open_store()
assert check.online_differences(feast, expected, pairs) == []
assert offline.historical_table(feast, pairs, "customer_360").equals(expected.combine_chunks())
print(len(pairs), "customers agree")
"""


def test_configuration_for_redis_differs_in_the_online_store_alone() -> None:
    directory = paths.feature_repo_dir()
    sqlite, redis = (
        load_repo_config(directory, directory / name)
        for name in ("feature_store.yaml", "feature_store.redis.yaml")
    )
    assert redis.online_store.type == "redis" and sqlite.online_store.type == "sqlite"
    assert redis.registry.path != sqlite.registry.path, (
        "the registry records the progress of one online store"
    )
    assert redis.project == sqlite.project
    assert redis.offline_store.type == sqlite.offline_store.type == "duckdb"
    assert redis.entity_key_serialization_version == sqlite.entity_key_serialization_version == 3
    assert redis.materialization_config == sqlite.materialization_config
