"""SQL functions that score feature rows inside DuckDB.

    import scoring

    connection = scoring.connect()  # the warehouse, read-only, with the functions
    connection.sql(
        "select f.customer_id, predict_customer_health(f).churn_risk_30d from features.customer_features f"
    )

`predict_customer_health(row)` and `explain_churn_risk_30d(row)` take a whole row of
`features.customer_features` (in DuckDB the alias of the table is such a row); `released_models()` lists the
releases. `register` adds the same functions to any connection; the dbt plugin does that for every dbt run.

All three read one state of the models directory, taken when the first of them is called after `register`. A
champion that is released later is seen after the next `register`: so one run never mixes two champions.
"""

from __future__ import annotations

import json
import threading
import uuid
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from feature_repo.catalog import load_catalog
from feature_repo.paths import models_dir as default_models_dir
from feature_repo.paths import warehouse_path
from feature_repo.row_groups import set_row_group_size
from scoring.predict import EXPLANATION_TYPE, PREDICTION_TYPE, explain_rows, predict_rows
from scoring.release import (
    OPTIONAL_MODELS,
    Release,
    ReleaseError,
    list_releases,
    read_champion,
    release_dir,
)

PREDICT = "predict_customer_health"
EXPLAIN = "explain_churn_risk_30d"
RELEASES = "released_models"
# Names the registration that a database's functions belong to; see register().
_REGISTRATION = "scoring_registration"

HOW_TO_TRAIN = "There is no champion in {models_dir}: train one with 'python -m training'."

# Flat columns of predictions.model_versions, besides the release's own: (column, model, population, figure).
_EVERYONE, _NOT_YET_LAPSED = "everyone", "not_yet_lapsed"
HELD_OUT_COLUMNS = (
    ("churn_risk_14d_auc", "churn_risk_14d", _EVERYONE, "auc"),
    ("churn_risk_14d_auc_not_yet_lapsed", "churn_risk_14d", _NOT_YET_LAPSED, "auc"),
    ("churn_risk_30d_auc", "churn_risk_30d", _EVERYONE, "auc"),
    ("churn_risk_30d_auc_not_yet_lapsed", "churn_risk_30d", _NOT_YET_LAPSED, "auc"),
    ("health_score_mae", "health_score", _EVERYONE, "mae"),
    ("session_velocity_mae", "session_velocity", _EVERYONE, "mae"),
    ("first_session_success_accuracy", "first_session_success", _EVERYONE, "accuracy"),
    ("first_session_success_auc", "first_session_success", _EVERYONE, "auc"),
)
_RELEASES_TYPE = (
    "STRUCT(model_version VARCHAR, is_champion BOOLEAN, trained_at TIMESTAMP, data_as_of TIMESTAMP, "
    "trained_until TIMESTAMP, training_rows BIGINT, "
    + ", ".join(f"{column} DOUBLE" for column, *_ in HELD_OUT_COLUMNS)
    + ", held_out VARCHAR, decision VARCHAR)[]"
)


def connect(
    path: Path | str | None = None, models_dir: Path | str | None = None, read_only: bool = True
) -> duckdb.DuckDBPyConnection:
    """Open a warehouse (default: WAREHOUSE_PATH), read-only unless asked otherwise, with the functions.

    Raises FileNotFoundError when there is no such file.
    """
    path = Path(path) if path is not None else warehouse_path()
    if not path.exists():
        raise FileNotFoundError(f"There is no warehouse at {path}: build it with 'dbt build'.")
    connection = duckdb.connect(str(path), read_only=read_only)
    if not read_only:
        set_row_group_size(connection)
    register(connection, models_dir)
    return connection


def register(connection: duckdb.DuckDBPyConnection, models_dir: Path | str | None = None) -> None:
    """Add the scoring functions to the database of `connection`; if it has them, they read the models anew.

    `models_dir` defaults to MODELS_DIR. Without a champion the functions exist as well; called on a row they
    raise one sentence. In DuckDB functions belong to the database, not to the connection: all connections of
    this process to the same database share them, and a new registration replaces the models for all.
    """
    models = _Models(Path(models_dir) if models_dir is not None else default_models_dir())
    cursor = connection.cursor()  # leaves a result that the caller is still reading alone
    with _registering:
        known = cursor.execute(
            "select count(*) from duckdb_functions() where function_name = ?", [_REGISTRATION]
        ).fetchone()
        if known is not None and known[0]:
            token = cursor.execute(f"select {_REGISTRATION}()").fetchone()[0]
            _registrations[token].models = models
        else:
            registration = _Registration(models)
            # DuckDB drops its reference to a Python function when the connection that registered it closes,
            # even while other connections to the database still call it. So they are kept here, for good.
            _registrations[registration.token] = registration
            registration.create(connection)


class _Models:
    """One state of a models directory, read whole at first use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._reading = threading.Lock()  # DuckDB calls from several threads

    def champion(self) -> Release:
        """The champion. Raises ReleaseError with one sentence when there is none or it cannot be read."""
        with self._reading:
            release = self._state[0]
        if release is None:
            raise ReleaseError(HOW_TO_TRAIN.format(models_dir=self.directory))
        return release

    def releases(self) -> list[dict[str, Any]]:
        """One dict a release, oldest first, as the SQL type _RELEASES_TYPE wants it."""
        with self._reading:
            return self._state[1]

    @cached_property
    def _state(self) -> tuple[Release | None, list[dict[str, Any]]]:
        champion = read_champion(self.directory)
        version = champion.model_version if champion is not None else None
        return champion, [
            release_row(self.directory, each, version) for each in list_releases(self.directory)
        ]


class _Registration:
    """The functions of one database, and the models that they read now."""

    def __init__(self, models: _Models) -> None:
        self.token = uuid.uuid4().hex
        self.models = models
        self.columns = load_catalog().names
        self._functions = (self._predict, self._explain, self._releases, self._token)

    def create(self, connection: duckdb.DuckDBPyConnection) -> None:
        predict, explain, releases, token = self._functions
        row_type = feature_row_type()
        # Scoring is pure: DuckDB may call it once for equal expressions. Nulls are handled here ("special"),
        # because a null inside a row makes the result null as well. What a registration is and holds changes
        # with the next one, so no plan may keep it ("side effects").
        for name, function, result in (
            (PREDICT, predict, PREDICTION_TYPE),
            (EXPLAIN, explain, EXPLANATION_TYPE),
        ):
            connection.create_function(
                name, function, [row_type], _sql_type(result), type="arrow", null_handling="special"
            )
        connection.create_function(RELEASES, releases, [], _RELEASES_TYPE, side_effects=True)
        connection.create_function(_REGISTRATION, token, [], "VARCHAR", side_effects=True)

    def _predict(self, rows: pa.ChunkedArray) -> pa.StructArray:
        return predict_rows(self.models.champion(), _whole(rows), self.columns)

    def _explain(self, rows: pa.ChunkedArray) -> pa.StructArray:
        return explain_rows(self.models.champion(), _whole(rows), self.columns)

    def _releases(self) -> list[dict[str, Any]]:
        return self.models.releases()

    def _token(self) -> str:
        return self.token


_registrations: dict[str, _Registration] = {}
_registering = threading.Lock()


def feature_row_type() -> str:
    """DuckDB's type of a row of features.customer_features, from the feature catalog."""
    catalog = load_catalog()
    fields = [f"{catalog.entity_key} VARCHAR", f"{catalog.timestamp} TIMESTAMP"]
    fields += [f"{feature.name} {feature.data_type.upper()}" for feature in catalog.features]
    return f"STRUCT({', '.join(fields)})"


def _whole(rows: pa.ChunkedArray) -> pa.StructArray:
    # DuckDB hands over one chunk of up to 2,048 rows; combine_chunks() would copy it.
    return rows.chunk(0) if rows.num_chunks == 1 else rows.combine_chunks()


_SQL_TYPES = {pa.float64(): "DOUBLE", pa.string(): "VARCHAR"}


def _sql_type(struct: pa.StructType) -> str:
    return f"STRUCT({', '.join(f'{field.name} {_SQL_TYPES[field.type]}' for field in struct)})"


def release_row(models_dir: Path, model_version: str, champion: str | None) -> dict[str, Any]:
    """What released_models() says of a release. Raises ReleaseError when its release.json is no such file."""
    # From release.json alone: parsing the boosters of a long history would take seconds in every dbt run.
    path = release_dir(models_dir, model_version) / "release.json"
    try:
        release = json.loads(path.read_bytes())
        held_out = {model["name"]: model["held_out"] for model in release["models"]}
        figures = {name: {} for name in OPTIONAL_MODELS} | held_out
        return {
            "model_version": model_version,
            "is_champion": model_version == champion,
            "trained_at": datetime.fromisoformat(release["trained_at"]),
            "data_as_of": datetime.fromisoformat(release["data_as_of"]),
            "trained_until": datetime.fromisoformat(release["trained_until"]),
            "training_rows": release["training_rows"],
            **{
                column: (figures[model].get(population) or {}).get(figure)
                for column, model, population, figure in HELD_OUT_COLUMNS
            },
            "held_out": json.dumps(held_out),
            "decision": json.dumps(release["decision"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{path} does not describe a release: {error!r}.") from error
