"""Scoring: SQL gives the bits of LightGBM, history is append-only, and a run scores whole or not at all."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner
from raw_data import RawData

import scoring.functions
from feature_repo.catalog import load_catalog
from scoring.__main__ import main as scoring_command
from scoring.functions import connect, feature_row_type, register
from scoring.release import (
    MODEL_NAMES,
    Calibration,
    Release,
    ReleasedModel,
    set_champion,
    write_release,
)

CATALOG = load_catalog()
NAMES = CATALOG.names
SERVICES = dict(
    zip(MODEL_NAMES, ("churn_v1", "churn_v1", "health_v1", "velocity_v1", "first_session_v1"), strict=True)
)
BOUNDS = {"health_score": (0.0, 100.0), "session_velocity": (0.0, None)}
CALIBRATIONS = {
    "churn_risk_14d": Calibration(1.3, -0.2),
    "churn_risk_30d": Calibration(0.9, 0.1),
    "first_session_success": Calibration(1.0, 0.0),
}

MONDAY = datetime(2026, 6, 1)
WEEK = timedelta(days=7)
SNAPSHOTS = tuple(MONDAY + WEEK * number for number in range(5))  # the last is 2026-06-29
TODAY = datetime(2026, 7, 1)
TRAINED_UNTIL = MONDAY + timedelta(days=1)  # the first snapshot is training data, the others are not

# === Synthetic features and releases ========================================================================


def random_features(rows: int, seed: int) -> np.ndarray:
    """Float64 (rows, 59) of the catalog's types: integers, codes with their -1, doubles."""
    random = np.random.default_rng(seed)
    matrix = np.empty((rows, len(NAMES)))
    for index, feature in enumerate(CATALOG.features):
        if feature.categorical:
            matrix[:, index] = random.integers(-1, 20, rows)
        elif feature.data_type == "integer":
            matrix[:, index] = np.floor(random.exponential(4, rows))
        else:
            matrix[:, index] = random.normal(3, 2, rows)
    matrix[:, NAMES.index("total_sessions_lifetime")] = random.integers(0, 3, rows)
    return matrix


def with_edges(matrix: np.ndarray) -> np.ndarray:
    """The matrix after rows that hold one extreme value throughout, as far as the types allow."""
    largest = np.iinfo(np.int32).max
    extremes = (
        0.0,
        -0.0,
        -1.0,
        999.0,
        float(largest),
        -float(largest) - 1.0,
        5e-324,
        1e-35,
        1e308,
        np.inf,
        np.nan,
    )
    rows = np.tile(np.array(extremes)[:, None], (1, len(NAMES)))
    for index, feature in enumerate(CATALOG.features):
        if feature.data_type == "integer":
            column = np.nan_to_num(rows[:, index], nan=0.0, posinf=largest)
            rows[:, index] = np.clip(np.trunc(column), -largest - 1, largest)
    return np.vstack([rows, matrix])


def around_splits(release: Release, seed: int) -> np.ndarray:
    """Rows that hold, in one feature each, the value at which a tree splits or one of its two neighbours."""
    splits: list[tuple[int, float]] = []
    for model in release.models.values():
        waiting = [
            tree["tree_structure"]
            for tree in lightgbm.Booster(model_str=model.booster_text).dump_model()["tree_info"]
        ]
        while waiting:
            node = waiting.pop()
            if "split_feature" not in node:
                continue
            waiting += [node["left_child"], node["right_child"]]
            feature = CATALOG.feature(model.features[node["split_feature"]])
            if feature.data_type == "double":
                splits.append((NAMES.index(feature.name), node["threshold"]))
    columns, thresholds = (np.repeat(values, 3) for values in zip(*splits, strict=True))
    directions = np.tile([-np.inf, np.nan, np.inf], len(splits))
    values = np.where(np.isnan(directions), thresholds, np.nextafter(thresholds, directions))
    matrix = random_features(len(values), seed)
    matrix[np.arange(len(values)), columns] = values
    return matrix


def feature_table(matrix: np.ndarray, snapshot: datetime = TODAY) -> pa.Table:
    """The matrix as rows of features.customer_features, customers numbered in row order."""
    columns: dict[str, pa.Array] = {
        CATALOG.entity_key: pa.array([f"C{number:07d}" for number in range(len(matrix))]),
        CATALOG.timestamp: pa.array([snapshot] * len(matrix), pa.timestamp("us")),
    }
    for index, feature in enumerate(CATALOG.features):
        wanted = pa.int32() if feature.data_type == "integer" else pa.float64()
        columns[feature.name] = pa.array(matrix[:, index], from_pandas=False).cast(wanted)
    return pa.table(columns)


def trained_model(
    name: str, seed: int, rounds: int = 25, leaves: int = 15, width: int | None = None
) -> ReleasedModel:
    """A small booster on random data, with its features (or only `width` of them) in an order of its own."""
    random = np.random.default_rng(seed)
    features = list(CATALOG.service(SERVICES[name]))
    random.shuffle(features)
    features = features[:width]
    matrix = random_features(1500, seed)[:, [NAMES.index(feature) for feature in features]]
    signal = matrix[:, :4].sum(axis=1) + random.normal(0, 2, len(matrix))
    probability = name in CALIBRATIONS
    labels = (signal > np.median(signal)).astype(float) if probability else signal * 10
    booster = lightgbm.train(
        {
            "objective": "binary" if probability else "regression_l1",
            "num_leaves": leaves,
            "verbosity": -1,
            "num_threads": 1,
            "seed": seed,
        },
        lightgbm.Dataset(
            np.abs(matrix),
            labels,
            feature_name=features,
            categorical_feature=[i for i, name in enumerate(features) if CATALOG.feature(name).categorical],
        ),
        rounds,
    )
    lower, upper = BOUNDS.get(name, (None, None))
    return ReleasedModel(
        name=name,
        feature_service=SERVICES[name],
        features=tuple(features),
        booster_text=booster.model_to_string(),
        calibration=CALIBRATIONS.get(name),
        lower=lower,
        upper=upper,
        held_out={
            "everyone": {"auc": 0.9, "mae": 8.5, "accuracy": 0.8},
            "not_yet_lapsed": {"auc": 0.8, "mae": None},
        },
        origin_version="v1",
    )


def small_release(
    version: str = "v1", trained_until: datetime = TRAINED_UNTIL, **models: ReleasedModel
) -> Release:
    """Five small models, of which `models` may replace some."""
    seed = int(version[1:]) * 100
    return Release(
        model_version=version,
        trained_at=datetime(2026, 7, 1, 3),
        data_as_of=TODAY,
        trained_until=trained_until,
        training_rows=1500,
        models={
            name: models.get(name) or trained_model(name, seed + number)
            for number, name in enumerate(MODEL_NAMES)
        },
        decision={"churn_risk_30d": {"replaced": True}},
    )


def publish(release: Release, directory: Path) -> Release:
    """Write the release and make it the champion."""
    write_release(release, directory)
    set_champion(directory, release.model_version)
    return release


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release()


@pytest.fixture(scope="module")
def models(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    publish(release, directory)
    return directory


@pytest.fixture
def database(models: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        register(connection, models)
        yield connection


# === Predictions and reasons, bit for bit ===================================================================


def bits(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).view(np.int64)


def by_hand(model: ReleasedModel, matrix: np.ndarray) -> np.ndarray:
    """Booster.predict and the calibration, written once more without any code of scoring/."""
    booster = lightgbm.Booster(model_str=model.booster_text)
    outputs = booster.predict(matrix[:, [NAMES.index(feature) for feature in model.features]])
    if model.calibration is not None:
        bounded = np.clip(outputs, 1e-12, 1 - 1e-12)
        outputs = 1 / (
            1
            + np.exp(
                -(model.calibration.slope * np.log(bounded / (1 - bounded)) + model.calibration.intercept)
            )
        )
    if model.lower is not None:
        outputs = np.maximum(outputs, model.lower)
    if model.upper is not None:
        outputs = np.minimum(outputs, model.upper)
    return outputs


@pytest.mark.parametrize("threads", [1, 4])
def test_sql_gives_the_bits_of_lightgbm(
    database: duckdb.DuckDBPyConnection, release: Release, tmp_path: Path, threads: int
) -> None:
    """Over many chunks of 2,048 rows, read by one or several threads, with extremes and values at splits."""
    matrix = np.vstack([with_edges(random_features(9_000, seed=1)), around_splits(release, seed=2)])
    pq.write_table(feature_table(matrix), tmp_path / "features.parquet", row_group_size=3_000)
    database.execute(f"set threads = {threads}")

    rows = database.execute(
        f"""
        select {", ".join(f"prediction.{name}" for name in MODEL_NAMES)}
        from (
            select f.customer_id, predict_customer_health(f) as prediction
            from read_parquet('{tmp_path}/features.parquet') f
        )
        order by customer_id
        """
    ).fetchnumpy()

    expected = {name: by_hand(model, matrix) for name, model in release.models.items()}
    expected["churn_risk_14d"] = np.minimum(expected["churn_risk_14d"], expected["churn_risk_30d"])
    released = release.predict(matrix, NAMES)
    for name in MODEL_NAMES:
        assert not np.ma.is_masked(rows[name])
        assert np.array_equal(bits(rows[name]), bits(expected[name])), name
        assert np.array_equal(bits(rows[name]), bits(released[name])), name
        assert len(np.unique(rows[name])) > 100, f"{name} hardly varies, so this would prove little"


def test_each_row_has_the_same_bits_alone_and_in_any_order(database: duckdb.DuckDBPyConnection) -> None:
    database.register("arrow_features", feature_table(random_features(50, seed=2)))
    database.execute("create table features as select * from arrow_features")
    together = database.execute(
        "select customer_id, predict_customer_health(f) from features f order by hash(customer_id)"
    ).fetchall()
    for customer_id, prediction in together:
        alone = database.execute(
            "select predict_customer_health(f) from features f where customer_id = ?", [customer_id]
        ).fetchall()
        assert alone == [(prediction,)]


def reasons_by_hand(model: ReleasedModel, matrix: np.ndarray) -> list[tuple[Any, ...]]:
    """The three greatest effects a row, sorted naively."""
    booster = lightgbm.Booster(model_str=model.booster_text)
    columns = [NAMES.index(feature) for feature in model.features]
    contributions = booster.predict(matrix[:, columns], pred_contrib=True)[:, :-1] * model.calibration.slope
    reasons = []
    for row in contributions:
        ranked = sorted(zip(columns, row, strict=True), key=lambda effect: (-abs(effect[1]), effect[0]))
        reasons.append(tuple(value for column, effect in ranked[:3] for value in (NAMES[column], effect)))
    return reasons


def assert_same_reasons(got: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    """The same features, and their effects but for rounding: LightGBM adds them in another order."""
    assert [row[::2] for row in got] == [row[::2] for row in expected]
    assert np.allclose([row[1::2] for row in got], [row[1::2] for row in expected], rtol=0, atol=1e-9)


# A single split leaves all effects but one at 0, so ties decide.
@pytest.mark.parametrize(("rounds", "leaves"), [(25, 15), (1, 2)])
def test_reasons_are_the_greatest_treeshap_effects(
    tmp_path: Path, release: Release, rounds: int, leaves: int
) -> None:
    model = trained_model("churn_risk_30d", seed=5, rounds=rounds, leaves=leaves)
    publish(
        dataclasses.replace(release, models={**release.models, "churn_risk_30d": model}), tmp_path / "models"
    )
    matrix = with_edges(random_features(3_000, seed=3))
    matrix = matrix[np.isfinite(matrix).all(axis=1)]
    with duckdb.connect() as connection:
        register(connection, tmp_path / "models")
        connection.register("features", feature_table(matrix))
        got = connection.execute(
            """
            select reason.* from (
                select f.customer_id, explain_churn_risk_30d(f) as reason from features f
            )
            order by customer_id
            """
        ).fetchall()
    assert_same_reasons(got, reasons_by_hand(model, matrix))
    assert any(row[3] == row[5] == 0 for row in got) == (rounds == 1)


def test_a_null_anywhere_in_a_row_gives_null(database: duckdb.DuckDBPyConnection) -> None:
    database.register("arrow_features", feature_table(random_features(3, seed=4)))
    name = NAMES[-1]
    database.execute(
        f"""
        create table features as
        select * replace (case when customer_id = 'C0000001' then null else {name} end as {name})
        from arrow_features
        """
    )
    for function in ("predict_customer_health", "explain_churn_risk_30d"):
        answers = database.execute(
            f"select customer_id, {function}(f) is null from features f order by customer_id"
        ).fetchall()
        assert [missing for _, missing in answers] == [False, True, False]
        null_row = f"cast(null as {feature_row_type()})"
        assert database.execute(f"select {function}({null_row}), {function}(null)").fetchall() == [
            (None, None)
        ]


def test_equal_calls_are_computed_once(
    database: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking fields apart, as customer_predictions does, must not multiply the work."""
    scored = []
    real = scoring.functions.predict_rows
    monkeypatch.setattr(
        scoring.functions,
        "predict_rows",
        lambda release, rows, names: scored.append(len(rows)) or real(release, rows, names),
    )
    database.register("features", feature_table(random_features(100, seed=6)))
    database.execute(
        """
        with answers as (select f.customer_id, predict_customer_health(f) as p from features f),
        apart as (select customer_id, p.health_score, p.churn_risk_30d, p.churn_risk_14d from answers)
        select apart.*, tier from apart
        left join (values (0, 50, 'low'), (50, 200, 'high')) as tiers (low, high, tier)
            on health_score >= low and health_score < high
        """
    ).fetchall()
    assert sum(scored) == 100


# === Registration ===========================================================================================


def test_without_a_champion_the_functions_say_how_to_get_one(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        register(connection, tmp_path)
        connection.register("features", feature_table(random_features(1, seed=1)))
        assert connection.execute("select unnest(released_models())").fetchall() == []
        assert (
            connection.execute("select predict_customer_health(f) from features f where false").fetchall()
            == []
        )
        for function in ("predict_customer_health", "explain_churn_risk_30d"):
            with pytest.raises(
                duckdb.InvalidInputException, match=r"There is no champion in .*python -m training"
            ):
                connection.execute(f"select {function}(f) from features f")


def test_a_new_registration_reads_the_new_champion_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    publish(small_release("v1"), tmp_path)
    query = "select predict_customer_health(f).health_score from features f"
    with duckdb.connect() as connection:
        register(connection, tmp_path)
        connection.register("arrow_features", feature_table(random_features(200, seed=7)))
        connection.execute("create table features as select * from arrow_features")
        first = connection.execute(query).fetchall()
        publish(small_release("v2"), tmp_path)
        assert connection.execute(query).fetchall() == first
        register(connection.cursor(), tmp_path)  # any connection to the database will do
        second = connection.execute(query).fetchall()
        assert second != first
        described = connection.execute(
            "select r.model_version, r.is_champion from (select unnest(released_models()) as r)"
        ).fetchall()
        assert described == [("v1", False), ("v2", True)]


def test_functions_outlive_the_connection_that_registered_them(tmp_path: Path, models: Path) -> None:
    """DuckDB itself forgets the Python function then, and would call into freed memory."""
    path = tmp_path / "shared.duckdb"
    first = duckdb.connect(str(path))
    second = duckdb.connect(str(path))
    register(first, models)
    second.register("features", feature_table(random_features(10, seed=8)))
    first.close()
    del first
    gc.collect()
    register(second, models)
    assert len(second.execute("select predict_customer_health(f) from features f").fetchall()) == 10
    second.close()


def test_threads_may_score_at_once(database: duckdb.DuckDBPyConnection) -> None:
    database.register("arrow_features", feature_table(random_features(5_000, seed=9)))
    database.execute("create table features as select * from arrow_features")
    query = (
        "select sum(hash(predict_customer_health(f))), sum(hash(explain_churn_risk_30d(f))) from features f"
    )
    expected = database.execute(query).fetchall()
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(database.cursor().execute(query).fetchall()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_a_damaged_release_is_named(tmp_path: Path) -> None:
    publish(small_release(), tmp_path)
    path = tmp_path / "releases" / "v1" / "release.json"
    path.write_text("{}")
    with duckdb.connect() as connection:
        register(connection, tmp_path)
        with pytest.raises(duckdb.InvalidInputException, match=r"releases/v1/release\.json"):
            connection.execute("select released_models()").fetchall()


def test_connect_opens_a_warehouse_read_only(tmp_path: Path, models: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dbt build"):
        connect(tmp_path / "none.duckdb", models)
    duckdb.connect(str(tmp_path / "some.duckdb")).close()
    with connect(tmp_path / "some.duckdb", models) as connection:
        assert connection.execute("select len(released_models())").fetchall() == [(1,)]
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            connection.execute("create table t (i integer)")


# === The command ============================================================================================


@pytest.mark.parametrize(
    ("has_warehouse", "has_features", "message"),
    [
        (False, False, "There is no warehouse at"),
        (True, False, "has no features.customer_features"),
        (True, True, "There is no champion in"),
    ],
)
def test_the_command_says_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_warehouse: bool,
    has_features: bool,
    message: str,
) -> None:
    path = tmp_path / "warehouse.duckdb"
    if has_warehouse:
        with duckdb.connect(str(path)) as connection:
            if has_features:
                connection.execute(
                    "create schema features; create table features.customer_features (i integer)"
                )
    monkeypatch.setenv("WAREHOUSE_PATH", str(path))
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    assert scoring_command([]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


# === The dbt models =========================================================================================


class Project:
    """The prediction part of the dbt project on a warehouse whose features this test lays itself."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.path = work / "warehouse.duckdb"
        self.models = work / "models"
        RawData().write(work / "raw")
        self.environment = {
            "WAREHOUSE_PATH": str(self.path),
            "RAW_DATA_DIR": str(work / "raw"),
            "FEATURE_EXPORT_DIR": str(work / "export"),
            "MODELS_DIR": str(self.models),
            "DBT_TARGET_PATH": str(work / "target"),
            "DBT_LOG_PATH": str(work / "logs"),
            "DBT_PROFILES_DIR": str(ROOT),
        }
        os.environ.update(self.environment)
        with duckdb.connect(str(self.path)) as connection:
            connection.execute("create schema features; create schema labels")
            connection.execute(
                """
                create table labels.customer_labels (
                    customer_id varchar, feature_timestamp timestamp, label_churn_risk_14d integer,
                    label_churn_risk_30d integer, label_session_velocity double, label_health_score double,
                    label_first_session_success integer, health_index double, segment varchar
                )
                """
            )

    def lay(self, matrix: np.ndarray, *snapshots: datetime) -> None:
        """The same customers at further snapshots, with labels mature up to a month before TODAY."""
        with duckdb.connect(str(self.path)) as connection:
            for snapshot in snapshots:
                connection.register("new_rows", feature_table(matrix, snapshot))
                if not connection.execute(
                    "select count(*) from duckdb_tables() where table_name = 'customer_features'"
                ).fetchall()[0][0]:
                    connection.execute("create table features.customer_features as from new_rows limit 0")
                connection.execute("insert into features.customer_features from new_rows")
                mature = 2.0 if snapshot <= TODAY - timedelta(days=28) else None
                connection.execute(
                    """
                    insert into labels.customer_labels
                    select customer_id, feature_timestamp, null, null, ?, null, null, 50.0, 'at_risk'
                    from new_rows
                    """,
                    [mature],
                )

    def dbt(self, *arguments: str) -> tuple[bool, list[str]]:
        """Run dbt in this process: whether it succeeded, and its warnings."""
        warnings: list[str] = []

        def listen(event: Any) -> None:
            if event.info.level == "warn":
                warnings.append(event.info.msg)

        if arguments[0] == "build":  # the unit tests have their turn in `dbt build` of the whole project
            arguments += ("--exclude-resource-type", "unit_test")
        result = dbtRunner(callbacks=[listen]).invoke([*arguments, "--project-dir", str(ROOT)])
        DuckDBConnectionManager.close_all_connections()
        gc.collect()
        return result.success, warnings

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path)) as connection:
            return connection.execute(query).fetchall()


@contextmanager
def project_in(work: Path) -> Iterator[Project]:
    """A project whose environment is gone afterwards."""
    before = dict(os.environ)
    try:
        yield Project(work)
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_in(tmp_path_factory.mktemp("project")) as project:
        yield project


ALL_PREDICTIONS = "select * from predictions.customer_predictions order by all"
VERSIONS_AND_SNAPSHOTS = """
    select model_version, feature_timestamp, count(*)
    from predictions.customer_predictions group by all order by all
"""


def edge_model() -> ReleasedModel:
    """A health model whose only split feature, customer_tenure_days, is the number of the score below."""
    features = tuple(CATALOG.service("health_v1"))
    matrix = np.zeros((len(EDGE_SCORES) * 20, len(features)))
    number = np.repeat(np.arange(len(EDGE_SCORES)), 20)
    matrix[:, features.index("customer_tenure_days")] = number
    booster = lightgbm.train(
        {
            "objective": "regression",
            "boost_from_average": False,
            "learning_rate": 1.0,
            "min_data_in_leaf": 1,
            "min_data_in_bin": 1,
            "verbosity": -1,
            "num_threads": 1,
        },
        lightgbm.Dataset(
            matrix, np.array([score for score, _, _ in EDGE_SCORES])[number], feature_name=list(features)
        ),
        1,
    )
    return dataclasses.replace(
        trained_model("health_score", seed=1), features=features, booster_text=booster.model_to_string()
    )


# What the booster says, what the bounds make of it, and the tier of that
EDGE_SCORES = (
    (-5.0, 0.0, "critical"),
    (0.0, 0.0, "critical"),
    (39.5, 39.5, "critical"),
    (40.0, 40.0, "at_risk"),
    (59.5, 59.5, "at_risk"),
    (60.0, 60.0, "healthy"),
    (79.5, 79.5, "healthy"),
    (80.0, 80.0, "thriving"),
    (99.5, 99.5, "thriving"),
    (100.0, 100.0, "thriving"),
    (120.0, 100.0, "thriving"),
)


def test_the_life_of_the_prediction_tables(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """No model, champion, repeat, killed night, next night, new champion, full refresh: it only grows."""
    customers = 2_500  # more than one chunk
    matrix = random_features(customers, seed=10)
    matrix[:, NAMES.index("customer_tenure_days")] = np.arange(customers) % len(EDGE_SCORES)
    project.lay(matrix, *SNAPSHOTS)

    # No model: everything is built, empty with its contract, and one warning says how to go on.
    success, warnings = project.dbt("build", "--select", "predictions+", "health_tiers")
    assert success
    assert [warning for warning in warnings if "python -m training" in warning] == warnings
    assert len(warnings) == 1
    contract = json.loads((project.work / "target" / "manifest.json").read_text())["nodes"]
    for name in ("model_versions", "customer_predictions"):
        columns = contract[f"model.customer_health.{name}"]["columns"]
        built = [(column, kind) for column, kind, *_ in project.rows(f"describe predictions.{name}")]
        assert built == [(column, each["data_type"].upper()) for column, each in columns.items()]
        assert project.rows(f"select count(*) from predictions.{name}") == [(0,)]
    current = project.rows(
        "select count(*), count(health_tier), count(health_index) from marts.customer_health_current"
    )
    assert current == [(customers, 0, customers)]
    assert project.rows(
        "select health_tier, customers, share_of_customers from marts.health_tier_summary order by min_score"
    ) == [(tier, 0, None) for tier in ("critical", "at_risk", "healthy", "thriving")]

    # First champion: scores all snapshots after its training data and none before.
    first = publish(small_release("v1", health_score=edge_model()), project.models)
    success, warnings = project.dbt("build", "--select", "predictions+")
    assert (success, warnings) == (True, [])
    scored = [("v1", snapshot, customers) for snapshot in SNAPSHOTS[1:]]
    assert project.rows(VERSIONS_AND_SNAPSHOTS) == scored
    history = project.rows(ALL_PREDICTIONS)

    # The table holds the bits of the release, the reasons, and null where a first session took place.
    stored = project.rows(
        f"""
        select {", ".join(MODEL_NAMES)}, health_tier,
            reason_1, reason_1_effect, reason_2, reason_2_effect, reason_3, reason_3_effect
        from predictions.customer_predictions
        where feature_timestamp = timestamp '{SNAPSHOTS[-1]}' order by customer_id
        """
    )
    expected = first.predict(matrix, NAMES)
    before_first = matrix[:, NAMES.index("total_sessions_lifetime")] == 0
    for number, name in enumerate(MODEL_NAMES):
        column = [row[number] for row in stored]
        if name == "first_session_success":
            assert [value is not None for value in column] == before_first.tolist()
            column = [value for value in column if value is not None]
            assert np.array_equal(bits(column), bits(expected[name][before_first]))
        else:
            assert np.array_equal(bits(column), bits(expected[name])), name
    assert_same_reasons([row[6:] for row in stored], reasons_by_hand(first.models["churn_risk_30d"], matrix))
    assert [(row[2], row[5]) for row in stored] == [
        EDGE_SCORES[number % len(EDGE_SCORES)][1:] for number in range(customers)
    ]
    assert project.rows(
        "select churn_risk_30d_auc, churn_risk_30d_auc_not_yet_lapsed, health_score_mae, is_champion "
        "from predictions.model_versions"
    ) == [(0.9, 0.8, 8.5, True)]

    # A repeat adds nothing.
    assert project.dbt("run", "--select", "predictions") == (True, [])
    assert project.rows(ALL_PREDICTIONS) == history

    # The next night is killed while it scores: nothing of it remains, and the one after makes up for it.
    project.lay(matrix, TODAY)
    killed = (
        "import os, scoring.functions as f; f.explain_rows = lambda *a: os._exit(9); "
        "from dbt.cli.main import cli; cli()"
    )
    run = subprocess.run(
        [sys.executable, "-c", killed, "run", "--select", "customer_predictions"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 9, run.stdout
    assert project.rows(ALL_PREDICTIONS) == history
    assert scoring_command([]) == 0
    assert "2,500 predictions added; v1 has scored 12,500 rows at 5 snapshots." in capsys.readouterr().out
    scored.append(("v1", TODAY, customers))
    assert project.rows(VERSIONS_AND_SNAPSHOTS) == scored
    assert set(history) < set(project.rows(ALL_PREDICTIONS))
    history = project.rows(ALL_PREDICTIONS)

    # A champion that model_versions does not know yet must not score under the wrong name.
    publish(small_release("v2"), project.models)
    assert project.dbt("run", "--select", "customer_predictions")[0] is False
    assert project.rows(ALL_PREDICTIONS) == history

    # A new champion adds its own rows, and not even a full refresh touches the old ones.
    assert project.dbt("build", "--full-refresh", "--select", "predictions+") == (True, [])
    scored += [("v2", snapshot, customers) for snapshot in (*SNAPSHOTS[1:], TODAY)]
    assert project.rows(VERSIONS_AND_SNAPSHOTS) == scored
    assert set(history) < set(project.rows(ALL_PREDICTIONS))
    current = project.rows(
        "select distinct feature_timestamp, model_version from marts.customer_health_current"
    )
    assert current == [(TODAY, "v2")]
    # Of the versions, snapshots and labels only SNAPSHOTS[0] is mature, and it was not scored.
    assert project.rows("select count(*) from marts.prediction_outcomes") == [(0,)]


def test_lineage_runs_from_raw_to_the_bi_view(project: Project) -> None:
    """The predictions are nodes of the graph: what BI reads descends from every raw table through them."""
    assert project.dbt("parse")[0]
    manifest = json.loads((project.work / "target" / "manifest.json").read_text())
    ancestors: set[str] = set()
    waiting = ["exposure.customer_health.customer_health_dashboard"]
    while waiting:
        for parent in manifest["parent_map"][waiting.pop()]:
            if parent not in ancestors:
                ancestors.add(parent)
                waiting.append(parent)
    assert set(manifest["sources"]) <= ancestors
    for name in ("customer_features", "customer_predictions", "model_versions", "customer_health_current"):
        assert f"model.customer_health.{name}" in ancestors
