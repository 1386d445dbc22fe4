"""Portable SQL: the bits of LightGBM from engines that know nothing of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import lightgbm
import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from test_scoring import MODEL_NAMES, NAMES, bits, feature_table, publish, random_features, small_release

from scoring.portable import (
    DIALECTS,
    UnsupportedModelError,
    booster_sql,
    dialect_named,
    literal,
    main,
    parse_model,
    release_sql,
)

Run = Callable[[str, np.ndarray, list[str]], np.ndarray]


def run_duckdb(sql: str, matrix: np.ndarray, names: list[str]) -> np.ndarray:
    """raw_score of each row, with NaN as NaN."""
    table = pa.table({"i": range(len(matrix)), **dict(zip(names, matrix.T, strict=True))})
    with duckdb.connect() as connection:
        connection.register("data", table)
        return connection.execute(f"select raw_score from ({sql}) order by i").fetchnumpy()["raw_score"]


def run_sqlite(sql: str, matrix: np.ndarray, names: list[str]) -> np.ndarray:
    """raw_score of each row, with NaN as null: SQLite has no other."""
    connection = sqlite3.connect(":memory:")
    connection.execute(f"create table data (i integer, {', '.join(f'{name} real' for name in names)})")
    rows = [(number, *row) for number, row in enumerate(matrix.tolist())]
    connection.executemany(f"insert into data values ({', '.join('?' * (len(names) + 1))})", rows)
    answer = [row[0] for row in connection.execute(f"select raw_score from ({sql}) order by i")]
    connection.close()
    return np.array(answer)


ENGINES = pytest.mark.parametrize(("dialect", "run"), [("duckdb", run_duckdb), ("sqlite", run_sqlite)])


def train(seed: int, rounds: int = 12, leaves: int = 15, **parameters: Any) -> lightgbm.Booster:
    """A booster over three numbers with gaps and zeros, and two categories with gaps and negatives."""
    random = np.random.default_rng(seed)
    matrix = np.column_stack([random.normal(0, 1, (800, 3)), random.integers(-2, 60, (800, 2))])
    matrix[random.random(matrix.shape) < 0.15] = 0.0
    labels = matrix[:, 0] + np.abs(matrix[:, 1]) + (matrix[:, 3] % 3) + random.normal(0, 0.1, 800)
    if parameters.get("use_missing", True):
        matrix[random.random(matrix.shape) < 0.1] = np.nan
    matrix[:, 3:] = np.abs(matrix[:, 3:])
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
        (split.feature, value)
        for tree in parse_model(booster.model_to_string()).trees
        for split in tree.splits
        if split.categories is None
        for value in (
            split.threshold,
            np.nextafter(split.threshold, np.inf),
            np.nextafter(split.threshold, -np.inf),
        )
    ]
    rows = random.normal(0, 1, (len(thresholds) + 300, count))
    rows[:, 3:] = random.integers(-3, 64, (len(rows), count - 3)) + random.choice([0.0, 0.5], (len(rows), 1))
    for row, (feature, value) in zip(rows, thresholds, strict=False):
        row[feature] = value
    edges = [0.0, -0.0, 1e-36, -1e-36, 1e-35, 1.1e-35, 5e-324, -0.5, 0.5, -1.0, 2.0**31, -(2.0**31), 1e300]
    edges += [np.inf, -np.inf, np.nan, 31.0, 32.0, 63.9]
    mixed = random.choice(edges, (300, count))
    return np.vstack([rows, mixed, np.tile(np.array(edges)[:, None], (1, count))])


KINDS = (
    {},
    {"objective": "binary"},
    {"zero_as_missing": True},
    {"use_missing": False},
    {"objective": "regression_l1", "max_depth": 2},
    {"learning_rate": 1.0, "num_leaves": 60},
)


@ENGINES
@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_raw_scores_have_the_bits_of_lightgbm(dialect: str, run: Run, seed: int) -> None:
    booster = train(seed, **KINDS[seed])
    rows = hard_rows(booster, seed)
    sql = booster_sql(booster.model_to_string(), dialect, "data", ["i"], trees_per_layer=5)
    got = run(sql, rows, booster.feature_name())
    assert np.array_equal(bits(got), bits(booster.predict(rows, raw_score=True)))
    assert len(np.unique(got)) > 50


@ENGINES
def test_constant_trees(dialect: str, run: Run) -> None:
    matrix = np.random.default_rng(0).normal(0, 1, (50, 2))
    settings = {"verbosity": -1, "min_data_in_leaf": 1000}
    booster = lightgbm.train(settings, lightgbm.Dataset(matrix, np.full(50, 0.1)), 3)
    sql = booster_sql(booster.model_to_string(), dialect, "data", ["i"])
    got = run(sql, matrix, booster.feature_name())
    assert np.array_equal(bits(got), bits(booster.predict(matrix, raw_score=True)))


@ENGINES
def test_five_hundred_trees_survive_planning(dialect: str, run: Run) -> None:
    booster = train(1, rounds=500, leaves=8, learning_rate=0.01)
    rows = hard_rows(booster, 1)[-200:]
    got = run(booster_sql(booster.model_to_string(), dialect, "data", ["i"]), rows, booster.feature_name())
    assert np.array_equal(bits(got), bits(booster.predict(rows, raw_score=True)))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_parses(dialect: str) -> None:
    sql = booster_sql(train(2, zero_as_missing=True, objective="binary").model_to_string(), dialect, "data")
    assert sqlglot.parse_one(sql, read=dialect) is not None


def awkward_numbers() -> list[float]:
    random = np.random.default_rng(0)
    numbers = random.integers(0, 2**63, 4000).view(np.float64)
    numbers = numbers[np.isfinite(numbers)].tolist()
    numbers += random.normal(0, 1, 4000).tolist()
    return [*numbers, *(-each for each in numbers), 5e-324, 1.7976931348623157e308, 1e-35, 0.1, 1e22]


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_literals_give_back_their_bits(dialect: str) -> None:
    numbers = awkward_numbers()
    if dialect == "sqlite":  # its parser of 2022 is exact for the usual magnitudes only
        numbers = [each for each in numbers if 1e-5 < abs(each) < 1e5]
    rows = ", ".join(f"({literal(each, dialect_named(dialect))})" for each in numbers)
    connect = duckdb.connect if dialect == "duckdb" else sqlite3.connect
    connection = connect(":memory:")
    got = [row[0] for row in connection.execute(f"select * from (values {rows}) as t").fetchall()]
    connection.close()
    assert np.array_equal(bits(got), bits(numbers))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("objective=regression", "objective=poisson", "poisson"),
        ("objective=regression\n", "", "custom objective"),
        ("is_linear=0", "is_linear=1", "linear trees"),
        ("num_class=1", "num_class=3", "classes"),
        ("max_feature_idx", "average_output\nmax_feature_idx", "averages"),
        ("version=v4", "version=v3", "v3"),
    ],
)
def test_what_sql_cannot_say_is_refused_by_name(old: str, new: str, named: str) -> None:
    text = train(3).model_to_string()
    assert old in text
    with pytest.raises(UnsupportedModelError, match=named) as raised:
        booster_sql(text.replace(old, new), "duckdb", name="my_model")
    assert "my_model" in str(raised.value)


def ulps(got: np.ndarray, expected: np.ndarray) -> int:
    """Greatest distance in steps of float64, for numbers of one sign."""
    return int(np.abs(bits(got) - bits(expected)).max())


def test_a_release_on_duckdb_is_the_release() -> None:
    """Raw scores are equal (above); NumPy's exp and log differ from the C library's in the last bit."""
    release = small_release()
    matrix = random_features(3_000, seed=7)
    with duckdb.connect() as connection:
        connection.register("data", feature_table(matrix))
        got = connection.execute(f"select * from ({release_sql(release, 'duckdb', 'data')}) order by 1")
        got = got.fetchnumpy()
    expected = release.predict(matrix, NAMES)
    for name in MODEL_NAMES:
        tolerance = 0 if release.models[name].calibration is None else 2
        assert ulps(got[name], expected[name]) <= tolerance, name


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    assert main(["--dialect", "spark"]) == 1
    assert "There is no champion" in capsys.readouterr().err
    publish(small_release(), tmp_path / "models")
    assert main(["--dialect", "oracle"]) == 1
    assert "no dialect 'oracle'" in capsys.readouterr().err
    target = tmp_path / "sql" / "spark.sql"
    assert main(["--dialect", "spark", "--dbt-macro", "--out", str(target)]) == 0
    assert "macro spark__portable_predictions(relation)" in target.read_text()
    assert "from {{ relation }}" in target.read_text()
