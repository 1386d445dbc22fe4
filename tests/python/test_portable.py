"""Portable SQL: the bits of LightGBM from engines that know nothing of it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from conftest import DBT, ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_scoring import (
    CATALOG,
    MODEL_NAMES,
    NAMES,
    TODAY,
    feature_table,
    publish,
    random_features,
    small_release,
    with_edges,
)

from scoring.functions import register
from scoring.portable import DIALECTS, booster_sql, dialect_named, literal, main, prediction_sql
from scoring.release import Release
from scoring.trees import read_trees

Run = Callable[[str, np.ndarray, list[str]], dict[str, np.ndarray]]
"""The columns of a select over the table `data`, sorted by i, the number of the row."""


def bits(numbers: Any) -> np.ndarray:
    return np.asarray(numbers, dtype=np.float64).view(np.int64)


def ulps(got: np.ndarray, expected: np.ndarray) -> int:
    """Greatest distance in steps of float64, for numbers of one sign."""
    return int(np.abs(bits(got) - bits(expected)).max())


# === Engines ================================================================================================


def run_duckdb(sql: str, matrix: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    table = pa.table({"i": range(len(matrix)), **dict(zip(names, matrix.T, strict=True))})
    with duckdb.connect() as connection:
        connection.register("data", table)
        return connection.execute(f"select * from ({sql}) order by i").fetchnumpy()


def run_sqlite(sql: str, matrix: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """With null for NaN: SQLite has no other."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f"create table data (i integer, {', '.join(f'{name} real' for name in names)})")
    rows = [(number, *row) for number, row in enumerate(matrix.tolist())]
    connection.executemany(f"insert into data values ({', '.join('?' * (len(names) + 1))})", rows)
    answer = connection.execute(f"select * from ({sql}) order by i")
    columns = [column[0] for column in answer.description]
    values = np.array(answer.fetchall()).T
    connection.close()
    return dict(zip(columns, values, strict=True))


@pytest.fixture(scope="session")
def spark() -> Any:
    sessions = pytest.importorskip("pyspark.sql", reason="Spark is not installed: pip install -e '.[spark]'")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is no java on PATH.")
    session = (
        sessions.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def run_spark(spark: Any, sql: str, matrix: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    schema = "i bigint, " + ", ".join(f"{name} double" for name in names)
    rows = [(number, *row) for number, row in enumerate(matrix.tolist())]
    spark.createDataFrame(rows, schema).createOrReplaceTempView("data")
    answer = spark.sql(f"select * from ({sql}) order by i")
    values = np.array([tuple(row) for row in answer.collect()]).T
    return dict(zip(answer.columns, values, strict=True))


@pytest.fixture(params=["duckdb", "sqlite", "spark"])
def engine(request: pytest.FixtureRequest) -> tuple[str, Run]:
    if request.param == "spark":
        session = request.getfixturevalue("spark")
        return "spark", lambda *arguments: run_spark(session, *arguments)
    return request.param, {"duckdb": run_duckdb, "sqlite": run_sqlite}[request.param]


# === Boosters ===============================================================================================


def train(seed: int, rounds: int = 8, leaves: int = 15, **parameters: Any) -> lightgbm.Booster:
    """A booster over three numbers with gaps and zeros, and two categories, of one and two words."""
    random = np.random.default_rng(seed)
    matrix = np.column_stack([random.normal(0, 1, (800, 3)), random.integers(0, [20, 60], (800, 2))])
    matrix[random.random(matrix.shape) < 0.15] = 0.0
    labels = matrix[:, 0] + np.abs(matrix[:, 1]) + (matrix[:, 3] % 3) + (matrix[:, 4] % 2)
    if parameters.get("use_missing", True):
        matrix[random.random(matrix.shape) < 0.1] = np.nan
    if parameters.get("objective") == "binary":
        labels = (labels > np.median(labels)).astype(float)
    settings = {"objective": "regression", "num_leaves": leaves, "min_data_in_leaf": 3, "verbosity": -1}
    settings |= {"num_threads": 1, "min_data_per_group": 5, "cat_smooth": 1.0, "seed": seed, **parameters}
    return lightgbm.train(settings, lightgbm.Dataset(matrix, labels, categorical_feature=[3, 4]), rounds)


def hard_rows(booster: lightgbm.Booster, seed: int) -> np.ndarray:
    """Random rows, extremes, and each threshold with its two neighbours."""
    random = np.random.default_rng(seed)
    count = booster.num_feature()
    thresholds = [
        (feature, value)
        for tree in read_trees(booster.model_to_string()).trees
        for feature, threshold, categories in zip(
            tree.split_feature, tree.threshold, tree.categories, strict=True
        )
        if categories is None
        for value in (threshold, np.nextafter(threshold, np.inf), np.nextafter(threshold, -np.inf))
    ]
    rows = random.normal(0, 1, (len(thresholds) + 300, count))
    rows[:, 3:] = random.integers(-3, 64, (len(rows), count - 3)) + random.choice([0.0, 0.5], (len(rows), 1))
    for row, (feature, value) in zip(rows, thresholds, strict=False):
        row[feature] = value
    edges = [0.0, -0.0, 1e-36, -1e-36, 1e-35, 1.1e-35, 5e-324, -0.5, 0.5, -1.0, -1.5, 2.0**31, -(2.0**31)]
    edges += [1e300, np.inf, -np.inf, np.nan, 30.0, 31.0, 32.0, 63.9]
    mixed = random.choice(edges, (300, count))
    return np.vstack([rows, mixed, np.tile(np.array(edges)[:, None], (1, count))])


KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"objective": "binary", "sigmoid": 0.7},
    {"zero_as_missing": True},
    {"use_missing": False},
    {"objective": "regression_l1", "max_depth": 2},
    {"learning_rate": 1.0, "leaves": 60},
)


def assert_scored(
    engine: tuple[str, Run], boosters: dict[str, lightgbm.Booster], rows: np.ndarray
) -> dict[str, np.ndarray]:
    dialect, run = engine
    models = {name: read_trees(booster.model_to_string()) for name, booster in boosters.items()}
    names = next(iter(boosters.values())).feature_name()
    got = run(booster_sql(models, dialect, "data", ["i"]), rows, names)
    for name, booster in boosters.items():
        raw = booster.predict(rows, raw_score=True)
        assert np.array_equal(bits(got[f"{name}_raw"]), bits(raw)), name
        # The engine's exp may be another than LightGBM's, by one step, which the division passes on.
        assert ulps(got[name], np.asarray(booster.predict(rows))) <= 2, name
    return got


def test_raw_scores_have_the_bits_of_lightgbm(engine: tuple[str, Run]) -> None:
    """Every missing type, both default directions, both outputs, numbers and categories, on hard rows."""
    boosters = {f"model_{seed}": train(seed, **parameters) for seed, parameters in enumerate(KINDS)}
    rows = np.vstack([hard_rows(booster, seed) for seed, booster in enumerate(boosters.values())])
    got = assert_scored(engine, boosters, rows)
    assert all(len(np.unique(got[f"{name}_raw"])) > 30 for name in boosters)


def test_constant_trees(engine: tuple[str, Run]) -> None:
    matrix = np.random.default_rng(0).normal(0, 1, (50, 2))
    parameters = {"verbosity": -1, "min_data_in_leaf": 1000}
    booster = lightgbm.train(parameters, lightgbm.Dataset(matrix, np.full(50, 0.1)), 3)
    assert_scored(engine, {"constant": booster}, matrix)


def test_five_hundred_trees_survive_planning(engine: tuple[str, Run]) -> None:
    leaves = {"duckdb": 31, "sqlite": 6, "spark": 3}[engine[0]]
    booster = train(1, rounds=500, leaves=leaves, learning_rate=0.01)
    assert booster.num_trees() == 500
    assert_scored(engine, {"model": booster}, hard_rows(booster, 1)[-200:])


@pytest.mark.parametrize("missing_left", [False, True])
def test_an_infinite_threshold(missing_left: bool) -> None:
    """What only tells missing values from the others."""
    booster = train(0, rounds=1, leaves=2, cat_smooth=1e9)
    text = booster.model_to_string()
    assert "\ndecision_type=8\n" in text or "\ndecision_type=10\n" in text
    text = re.sub(r"\nthreshold=.*\n", "\nthreshold=inf\n", text)
    text = re.sub(r"\ndecision_type=.*\n", f"\ndecision_type={10 if missing_left else 8}\n", text)
    booster = lightgbm.Booster(model_str=text)
    rows = np.tile(np.array([[np.inf], [1.0], [-np.inf], [np.nan]]), (1, booster.num_feature()))
    assert_scored(("duckdb", run_duckdb), {"model": booster}, rows)


# === Literals ===============================================================================================

finite = st.floats(allow_nan=False, allow_infinity=False)


def literals(numbers: list[float], dialect: str) -> str:
    rows = ", ".join(f"({literal(each, dialect_named(dialect))})" for each in numbers)
    return f"select * from (values {rows}) as t"


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
@settings(max_examples=100, deadline=None)
@given(numbers=st.lists(finite, min_size=1, max_size=200))
@example(numbers=[5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e-35, 0.1, 1e22, 1e23])
def test_literals_give_back_their_bits(dialect: str, numbers: list[float]) -> None:
    connection = (duckdb if dialect == "duckdb" else sqlite3).connect(":memory:")
    got = [row[0] for row in connection.execute(literals(numbers, dialect)).fetchall()]
    connection.close()
    # Equal numbers have equal bits, but for the sign of zero, which no comparison and no sum here can see.
    assert got == numbers


def test_literals_give_back_their_bits_on_spark(spark: Any) -> None:
    random = np.random.default_rng(0)
    numbers = random.integers(0, 2**63, 500).view(np.float64)
    numbers = [*numbers[np.isfinite(numbers)].tolist(), *random.normal(0, 1, 500).tolist()]
    numbers += [5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e-35, 0.1, 1e22, 1e23]
    got = [row[0] for row in spark.sql(literals(numbers, "spark")).collect()]
    assert np.array_equal(bits(got), bits(numbers))


# === Releases ===============================================================================================


@pytest.fixture(scope="module")
def release() -> Release:
    return small_release()


def assert_predicted(got: dict[str, np.ndarray], release: Release, matrix: np.ndarray) -> None:
    """Equal where no exp or log is; else within four steps, since NumPy's differ from the C library's."""
    expected = release.predict(matrix, NAMES)
    for name in MODEL_NAMES:
        tolerance = 0 if release.models[name].calibration is None else 4
        assert ulps(got[name], expected[name]) <= tolerance, name


def test_a_release_on_duckdb_is_the_release(release: Release) -> None:
    matrix = with_edges(random_features(2_000, seed=7))
    with duckdb.connect() as connection:
        connection.register("data", feature_table(matrix))
        got = connection.execute(f"select * from ({prediction_sql(release, 'duckdb', 'data')}) order by 1")
        assert_predicted(got.fetchnumpy(), release, matrix)


@pytest.mark.parametrize("feature", [NAMES[0], NAMES[-1]])
def test_a_null_feature_gives_no_prediction(release: Release, feature: str) -> None:
    with duckdb.connect() as connection:
        connection.register("whole", feature_table(random_features(3, seed=1)))
        connection.execute(
            f"create table data as select * replace "
            f"(case when customer_id <> 'C0000001' then {feature} end as {feature}) from whole"
        )
        got = connection.execute(f"{prediction_sql(release, 'duckdb', 'data')} order by 1").fetchall()
    assert [[value is None for value in row[2:]] for row in got] == [[False] * 5, [True] * 5, [False] * 5]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_sql_of_a_release_parses(release: Release, dialect: str) -> None:
    parsed = sqlglot.parse_one(prediction_sql(release, dialect), read=dialect)
    assert parsed.named_selects == [CATALOG.entity_key, CATALOG.timestamp, *MODEL_NAMES]


# === dbt and the command ====================================================================================

PROJECT = """
name: customer_health
version: 1.0.0
profile: portable
macro-paths: [macros]
model-paths: [models]
flags: {send_anonymous_usage_stats: false}
"""
PROFILE = """
portable:
  target: duckdb
  outputs: {duckdb: {type: duckdb, path: warehouse.duckdb, threads: 1}}
"""


def test_dbt_scores_with_the_written_macros(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another warehouse would run, run on DuckDB: the default macros and the written ones."""
    models = tmp_path / "data"
    publish(release, models)
    monkeypatch.setenv("MODELS_DIR", str(models))
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    (project / "dbt_project.yml").write_text(PROJECT)
    (project / "profiles.yml").write_text(PROFILE)
    for name in ("scoring", "portable_scoring"):
        (project / "macros").mkdir(exist_ok=True)
        shutil.copy(ROOT / "macros" / f"{name}.sql", project / "macros")
    (project / "models" / "scored.sql").write_text("{{ default__scored_rows('data') }}")
    (project / "models" / "releases.sql").write_text("{{ default__released_models() }}")
    matrix = random_features(500, seed=5)
    with duckdb.connect(str(project / "warehouse.duckdb")) as connection:
        connection.register("given", pa.concat_tables(feature_table(matrix, day) for day in SNAPSHOTS))
        connection.execute("create table data as from given")

    assert "There is no portable SQL for duckdb yet" in dbt_run(project, 1)
    macros = project / "macros" / "portable" / "duckdb.sql"
    assert main(["--dialect", "duckdb", "--dbt-macros", "--out", str(macros)]) == 0
    dbt_run(project, 0)

    with duckdb.connect(str(project / "warehouse.duckdb")) as connection:
        register(connection, models)
        keys = f"{CATALOG.entity_key}, {CATALOG.timestamp}, total_sessions_lifetime"
        got = connection.execute(f"select * from scored order by {keys}").fetchnumpy()
        # The fast path, through the macro that DuckDB uses.
        fast = connection.execute(
            f"select {keys}, unnest(predict_customer_health(data)) from data order by {keys}"
        ).fetchnumpy()
        for name in fast:
            if name in MODEL_NAMES:
                assert ulps(got[name], fast[name]) <= (0 if release.models[name].calibration is None else 4)
            else:
                assert np.array_equal(got[name], fast[name])
        released = connection.execute("from releases").fetchall()
        assert (
            released == connection.execute("select unnest(released_models(), recursive := true)").fetchall()
        )


SNAPSHOTS = (TODAY, TODAY + timedelta(days=1))


def dbt_run(project: Path, code: int) -> str:
    run = subprocess.run(
        [DBT, "run", "--project-dir", project, "--profiles-dir", project],
        cwd=project,
        env={name: value for name, value in os.environ.items() if not name.startswith("DBT_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == code, run.stdout
    return re.sub(r"\s+", " ", run.stdout)


def test_the_command(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    assert main(["--dialect", "spark"]) == 1
    assert "There is no champion" in capsys.readouterr().err
    publish(release, tmp_path / "models")
    assert main(["--dialect", "oracle"]) == 1
    assert "no dialect 'oracle'" in capsys.readouterr().err
    target = tmp_path / "sql" / "spark.sql"
    assert main(["--dialect", "spark", "--out", str(target), "--relation", "here.rows"]) == 0
    assert target.read_text() == prediction_sql(release, "spark", "here.rows")
    assert [each.name for each in target.parent.iterdir()] == ["spark.sql"]  # no draft beside it
