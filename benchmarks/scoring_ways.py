"""The ways of scoring that benchmarks/scoring.py compares, each run in a process of its own.

    python -m benchmarks.scoring_ways <way> <folder> <rows>

A way is a function that takes the inputs, does what need not be timed (loading, compiling, a first call) and
returns the run to be timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

import scoring
from benchmarks.measure import THREADS, Unavailable, connect, report
from scoring.portable import prediction_sql
from scoring.predict import REASON_MODEL
from scoring.release import MODEL_NAMES, Release, read_champion

FEATURES = "features.customer_features"
# pred_contrib needs minutes for more.
_MOST_CONTRIBUTIONS = 100_000


@dataclass(frozen=True)
class Inputs:
    """The folder that benchmarks/scoring.py prepared, and the number of rows to score."""

    folder: Path
    rows: int

    @property
    def release(self) -> Release:
        """The models to score with."""
        champion = read_champion(self.folder / "models")
        assert champion is not None
        return champion

    def connection(self) -> duckdb.DuckDBPyConnection:
        """The database with the feature rows."""
        return connect(self.folder / f"rows_{self.rows}.duckdb")

    def matrices(self) -> list[np.ndarray]:
        """Each model's features, float64 (rows, features), as Booster.predict likes them best."""
        with self.connection() as connection:
            columns = connection.execute(f"select * from {FEATURES}").fetchnumpy()
        return [
            np.stack([columns[name].astype(np.float64) for name in model.features], axis=1)
            for model in self.release.models.values()
        ]


def booster_predict(inputs: Inputs) -> Callable[[], None]:
    """Booster.predict on arrays in memory: no reading, no writing, no calibration."""
    boosters = [model.booster for model in inputs.release.models.values()]
    matrices = inputs.matrices()

    def run() -> None:
        for booster, matrix in zip(boosters, matrices, strict=True):
            booster.predict(matrix, num_threads=THREADS)

    return run


def pandas_round_trip(inputs: Inputs) -> Callable[[], None]:
    """What is usually done: the table to pandas, Booster.predict, the predictions back as a table."""
    release = inputs.release
    for model in release.models.values():
        model.booster.predict(np.zeros((1, len(model.features))))

    def run() -> None:
        with inputs.connection() as connection:
            frame = connection.execute(f"select * from {FEATURES}").df()
            predictions = frame[["customer_id", "feature_timestamp"]].copy()
            for name, model in release.models.items():
                output = model.booster.predict(frame[list(model.features)], num_threads=THREADS)
                predictions[name] = model.finished(output)
            connection.register("scored", predictions)
            connection.execute("create or replace table predictions as select * from scored")

    return run


def tl2cgen(inputs: Inputs) -> Callable[[], str]:
    """The boosters compiled by tl2cgen (C), on arrays in memory."""
    try:
        import tl2cgen as library
        import treelite
    except ImportError:
        raise Unavailable("tl2cgen is not installed") from None
    begin = time.perf_counter()
    predictors = []
    for path in _model_files(inputs):
        compiled = path.with_suffix(".so")
        library.export_lib(
            treelite.frontend.load_lightgbm_model(path),
            toolchain="gcc",
            libpath=compiled,
            params={"parallel_comp": 8},
        )
        predictors.append(library.Predictor(compiled, nthread=THREADS))
    compiling = time.perf_counter() - begin
    matrices = [library.DMatrix(matrix) for matrix in inputs.matrices()]

    def run() -> str:
        for predictor, matrix in zip(predictors, matrices, strict=True):
            predictor.predict(matrix)
        return f"compiled in {compiling:,.0f} s"

    return run


def duckdb_function(inputs: Inputs) -> Callable[[], str]:
    """Ours: `predict_customer_health` over the table, into a table."""
    connection = inputs.connection()
    begin = time.perf_counter()
    scoring.register(connection, inputs.folder / "models")
    connection.execute(f"select predict_customer_health(f) from {FEATURES} as f limit 1").fetchall()
    first_call = time.perf_counter() - begin

    def run() -> str:
        connection.execute(
            f"""
            create or replace table predictions as
            select customer_id, feature_timestamp, {", ".join(f"prediction.{name}" for name in MODEL_NAMES)}
            from (select *, predict_customer_health(f) as prediction from {FEATURES} as f)
            """
        )
        return f"first call after {first_call:,.1f} s"

    return run


def portable_sql(inputs: Inputs) -> Callable[[], None]:
    """Ours for any warehouse: the plain SQL of scoring/portable.py, planned and run in DuckDB."""
    connection = inputs.connection()
    query = prediction_sql(inputs.release, "duckdb", FEATURES)

    def run() -> None:
        connection.execute(f"create or replace table portable_predictions as {query}")

    return run


def pred_contrib(inputs: Inputs) -> Callable[[], None]:
    """LightGBM's own TreeSHAP values for the 30-day churn risk, on an array in memory."""
    if inputs.rows > _MOST_CONTRIBUTIONS:
        raise Unavailable(f"not run above {_MOST_CONTRIBUTIONS:,} rows")
    booster = inputs.release.models[REASON_MODEL].booster
    matrix = inputs.matrices()[MODEL_NAMES.index(REASON_MODEL)]

    def run() -> None:
        booster.predict(matrix, pred_contrib=True, num_threads=THREADS)

    return run


def duckdb_reasons(inputs: Inputs) -> Callable[[], None]:
    """Ours: `explain_churn_risk_30d` over the table, three reasons a row, into a table."""
    connection = inputs.connection()
    scoring.register(connection, inputs.folder / "models")
    connection.execute(f"select explain_churn_risk_30d(f) from {FEATURES} as f limit 1").fetchall()

    def run() -> None:
        connection.execute(
            f"""
            create or replace table explanations as
            select customer_id, feature_timestamp, explain_churn_risk_30d(f) as explanation
            from {FEATURES} as f
            """
        )

    return run


WAYS = {
    "booster": booster_predict,
    "pandas": pandas_round_trip,
    "tl2cgen": tl2cgen,
    "duckdb": duckdb_function,
    "portable": portable_sql,
    "pred_contrib": pred_contrib,
    "duckdb_reasons": duckdb_reasons,
}


def _model_files(inputs: Inputs) -> list[Path]:
    directory = inputs.folder / "models" / "releases" / inputs.release.model_version
    return [directory / f"{name}.txt" for name in MODEL_NAMES]


def main(way: str, folder: str, rows: str) -> None:
    """Measure one way and print the outcome."""
    report(lambda: WAYS[way](Inputs(Path(folder), int(rows))))


if __name__ == "__main__":
    main(*sys.argv[1:])
