"""Do Feast and the warehouse agree? Columns by name, type and order; values to the last bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore, FeatureView

from feature_repo.build import TTL
from feature_repo.catalog import ALL_FEATURES_SERVICE, WIDE_RELATION, load_catalog
from feature_repo.offline import EVENT_TIMESTAMP, historical_table, service_schema
from feature_repo.paths import feature_export_dir
from feature_repo.predictions import (
    PREDICTIONS_RELATION,
    PREDICTIONS_SCHEMA,
    PREDICTIONS_SERVICE,
    load_predictions,
)
from feature_repo.store import materialize

FEATURE_SCHEMA = "features"
WAREHOUSE_TYPES = {"String": "varchar", "Int32": "integer", "Float64": "double"}
"""Feast type → the type that a column has in the warehouse."""

Columns = list[tuple[str, str]]
"""Column names and types (as the dbt YAML writes them), in order."""


def warehouse_columns(warehouse: Path) -> dict[str, Columns]:
    """Columns of the features and the predictions in a DuckDB file that nobody is writing."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        rows = connection.execute(
            """
            select table_name, column_name, lower(data_type) from information_schema.columns
            where table_schema in ($features, $predictions) order by table_name, ordinal_position
            """,
            {"features": FEATURE_SCHEMA, "predictions": PREDICTIONS_SCHEMA},
        ).fetchall()
    relations: dict[str, Columns] = {}
    for relation, name, data_type in rows:
        relations.setdefault(relation, []).append((name, data_type))
    return relations


def manifest_columns(manifest: Path) -> dict[str, Columns]:
    """Columns of the models in dbt's ``manifest.json``, as their contracts declare them."""
    nodes = json.loads(manifest.read_text(encoding="utf-8"))["nodes"].values()
    return {
        node["name"]: [(column["name"], column["data_type"]) for column in node["columns"].values()]
        for node in nodes
        if node["resource_type"] == "model" and node["columns"]
    }


def export_columns(export_dir: Path) -> dict[str, Columns]:
    """Columns of the Parquet exports in ``export_dir``, those of the features by the families that read them.

    Raises ``ValueError`` when the files of a relation differ: Feast reads them as one table.
    """
    relations: dict[str, Columns] = {}
    with duckdb.connect() as connection:
        for file in sorted(export_dir.glob("*/*.parquet")):
            rows = connection.execute(
                "select column_name, lower(column_type) from (describe from read_parquet($file))",
                {"file": str(file)},
            ).fetchall()
            if relations.setdefault(file.parent.name, rows) != rows:
                raise ValueError(f"{file} has other columns than the files before it in {file.parent}.")
    features = relations.pop(WIDE_RELATION, None)
    if features is not None:
        catalog = load_catalog()
        for family in catalog.families:
            of_others = {feature.name for feature in catalog.features if feature.family != family.name}
            relations[family.relation] = [column for column in features if column[0] not in of_others]
    return relations


def column_differences(views: list[FeatureView], relations: Mapping[str, Columns]) -> list[str]:
    """Where feature views and their relations differ in the names, types or order of the columns.

    One sentence each; none when they agree. ``relations`` may hold more than the views serve, and the
    predictions may have their columns for audit.
    """
    catalog = load_catalog()
    keys = [(catalog.entity_key, "varchar"), (catalog.timestamp, "timestamp")]
    differences = []
    for view in views:
        served = keys + [(field.name, WAREHOUSE_TYPES[str(field.dtype)]) for field in view.features]
        if view.name in relations:
            built = relations[view.name]
            if view.name == PREDICTIONS_RELATION:
                built = [column for column in built if column[0] not in load_predictions().not_served]
            differences += _relation_differences(view.name, served, built)
        else:
            differences.append(f"{view.name} is a feature view, but there is no such relation.")
    return differences


def _relation_differences(relation: str, served: Columns, built: Columns) -> list[str]:
    types, expected = dict(built), dict(served)
    differences = []
    for name, data_type in served:
        if name not in types:
            differences.append(f"{relation}.{name} is served by Feast, but is no column of the relation.")
        elif types[name] != data_type:
            differences.append(
                f"{relation}.{name} is {data_type} in Feast, but {types[name]} in the relation."
            )
    for name in types:
        if name not in expected:
            differences.append(f"{relation}.{name} is a column of the relation, but not served by Feast.")
    if not differences and list(types) != list(expected):
        differences.append(f"{relation} has its columns in another order in Feast than in the relation.")
    return differences


def sample_pairs(warehouse: Path, moments: int, customers: int, seed: int = 0) -> pd.DataFrame:
    """Draw ``moments`` times and for each ``customers`` customers: what ``value_differences`` compares.

    A third of the times are snapshots to the microsecond, the others lie anywhere from a day before the first
    snapshot to ten days after the last. Of each ten customers one is unknown to the warehouse. Columns: the
    entity key and ``event_timestamp`` (UTC), in random order.
    """
    catalog = load_catalog()
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        source = f"{FEATURE_SCHEMA}.{WIDE_RELATION}"
        known = connection.execute(
            f"select distinct {catalog.entity_key} from {source} order by 1"
        ).fetchnumpy()
        times = connection.execute(
            f"select distinct {catalog.timestamp} from {source} order by 1"
        ).fetchnumpy()
    keys, snapshots = known[catalog.entity_key], times[catalog.timestamp].astype("datetime64[us]")
    random = np.random.default_rng(seed)
    exact = random.choice(snapshots, min(len(snapshots), max(1, moments // 3)), replace=False)
    first, last = snapshots[0] - np.timedelta64(1, "D"), snapshots[-1] + np.timedelta64(10, "D")
    span = int((last - first) / np.timedelta64(1, "us"))
    between = first + random.integers(0, span, moments - len(exact)).astype("timedelta64[us]")
    rows = []
    for time in np.concatenate([exact, between]):
        unknown = customers // 10
        drawn = random.choice(keys, min(len(keys), customers - unknown), replace=False)
        rows += [(key, time) for key in (*drawn, *(f"unknown-{i}" for i in range(unknown)))]
    pairs = pd.DataFrame(rows, columns=[catalog.entity_key, EVENT_TIMESTAMP])
    pairs[EVENT_TIMESTAMP] = pd.to_datetime(pairs[EVENT_TIMESTAMP], utc=True).dt.as_unit("us")
    return pairs.iloc[random.permutation(len(pairs))].reset_index(drop=True)


def warehouse_values(warehouse: Path, pairs: pd.DataFrame) -> pa.Table:
    """All features in force for each (customer, time) of ``pairs``, looked up in ``customer_features``.

    The obvious query, without Feast: the newest snapshot at or before the time and at most the ttl old.
    """
    catalog = load_catalog()
    keys = pa.table(
        {
            "row": np.arange(len(pairs)),
            "key": pa.array(pairs[catalog.entity_key], pa.string()),
            "time": pa.array(pairs[EVENT_TIMESTAMP].dt.tz_localize(None), pa.timestamp("us")),
        }
    )
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        connection.register("pairs", keys)
        return connection.sql(
            f"""
            select {", ".join(f"snapshots.{name}" for name in catalog.names)}
            from pairs
            left join {FEATURE_SCHEMA}.{WIDE_RELATION} as snapshots
                on snapshots.{catalog.entity_key} = pairs.key
                and snapshots.{catalog.timestamp} = (
                    select max(earlier.{catalog.timestamp})
                    from {FEATURE_SCHEMA}.{WIDE_RELATION} as earlier
                    where earlier.{catalog.entity_key} = pairs.key
                        and earlier.{catalog.timestamp} <= pairs.time
                        and earlier.{catalog.timestamp} >= pairs.time - to_seconds({int(TTL.total_seconds())})
                )
            order by pairs.row
            """
        ).to_arrow_table()


def warehouse_predictions(warehouse: Path, pairs: pd.DataFrame) -> pa.Table:
    """The predictions in force for each (customer, time) of ``pairs``, looked up in ``customer_predictions``.

    The newest snapshot as for ``warehouse_values``. Of several versions that scored it counts, at the newest
    snapshot of all, the champion's (the one that scored last where the champion did not); for one gone by
    that which was served then, as the exports remember.
    """
    catalog = load_catalog()
    keys = pa.table(
        {
            "row": np.arange(len(pairs)),
            "key": pa.array(pairs[catalog.entity_key], pa.string()),
            "time": pa.array(pairs[EVENT_TIMESTAMP].dt.tz_localize(None), pa.timestamp("us")),
        }
    )
    exports = feature_export_dir() / PREDICTIONS_RELATION / "*.parquet"
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        connection.register("pairs", keys)
        return connection.sql(
            f"""
            with served_then as (
                select distinct {catalog.timestamp}, model_version from read_parquet('{exports}')
            ),
            scored as (
                select predictions.*
                from {PREDICTIONS_SCHEMA}.{PREDICTIONS_RELATION} as predictions
                left join {PREDICTIONS_SCHEMA}.model_versions as versions using (model_version)
                where {catalog.timestamp} = (
                        select max({catalog.timestamp}) from {PREDICTIONS_SCHEMA}.{PREDICTIONS_RELATION}
                    )
                    or ({catalog.timestamp}, model_version) in (select * from served_then)
                qualify row_number() over (
                    partition by {catalog.entity_key}, {catalog.timestamp}
                    order by coalesce(versions.is_champion, false) desc, scored_at desc, model_version desc
                ) = 1
            )
            select {", ".join(f"scored.{name}" for name in load_predictions().names)}
            from pairs
            left join scored
                on scored.{catalog.entity_key} = pairs.key
                and scored.{catalog.timestamp} <= pairs.time
                and scored.{catalog.timestamp} >= pairs.time - to_seconds({int(TTL.total_seconds())})
            qualify row_number() over (partition by row order by scored.{catalog.timestamp} desc) = 1
            order by pairs.row
            """
        ).to_arrow_table()


def online_values(store: FeatureStore, customers: list[str], service: str = ALL_FEATURES_SERVICE) -> pa.Table:
    """What the online store serves for ``customers``: columns of ``service_schema``; null where it has none.

    Raises ``TypeError`` when a value is not of the column's own type on the wire.
    """
    response = store.get_online_features(
        store.get_feature_service(service),
        [{load_catalog().entity_key: customer} for customer in customers],
    ).proto
    wire = {pa.int32(): "int32_val", pa.float64(): "double_val", pa.string(): "string_val"}
    results = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    columns = {}
    for field in service_schema(service):
        values = []
        for value in results[field.name].values:
            kind = value.WhichOneof("val")
            if kind not in (None, wire[field.type]):
                raise TypeError(f"{field.name} is served as {kind}, expected {wire[field.type]}.")
            values.append(None if kind is None else getattr(value, kind))
        columns[field.name] = pa.array(values, field.type)
    return pa.table(columns)


def value_differences(store: FeatureStore, warehouse: Path, pairs: pd.DataFrame) -> list[str]:
    """Where warehouse, offline store and online store differ for the (customer, time) of ``pairs``.

    The online store is materialized at each of the times in turn, so it must be a scratch store that is not
    further than the first of them. Values are compared to the last bit, types included.
    """
    expected = warehouse_values(warehouse, pairs)
    differences = list(
        _differences("offline", expected, historical_table(store, pairs, ALL_FEATURES_SERVICE), pairs)
    )
    for time, rows in sorted(pairs.groupby(EVENT_TIMESTAMP).indices.items()):
        materialize(store, pd.Timestamp(time).to_pydatetime())
        differences += online_differences(store, expected.take(pa.array(rows)), pairs.iloc[rows])
    return differences


def online_differences(
    store: FeatureStore, expected: pa.Table, pairs: pd.DataFrame, service: str = ALL_FEATURES_SERVICE
) -> list[str]:
    """Where the online store differs from ``expected``, what ``service`` shall serve for the customers of
    ``pairs``."""
    customers = pairs[load_catalog().entity_key].tolist()
    return list(_differences("online", expected, online_values(store, customers, service), pairs))


def agreement_now(
    store: FeatureStore, warehouse: Path, as_of: datetime, customers: int, seed: int = 0
) -> list[str]:
    """Compare features and predictions of random customers at ``as_of``, up to which the online store was
    materialized."""
    pairs = sample_pairs(warehouse, moments=1, customers=customers, seed=seed)
    pairs[EVENT_TIMESTAMP] = pd.Timestamp(as_of.astimezone(UTC)).as_unit("us")
    differences = []
    for service, look_up in (
        (ALL_FEATURES_SERVICE, warehouse_values),
        (PREDICTIONS_SERVICE, warehouse_predictions),
    ):
        expected = look_up(warehouse, pairs)
        offline = historical_table(store, pairs, service)
        differences += _differences("offline", expected, offline, pairs)
        differences += online_differences(store, expected, pairs, service)
    return differences


def _differences(place: str, expected: pa.Table, found: pa.Table, pairs: pd.DataFrame) -> Iterator[str]:
    if found.column_names != expected.column_names or found.num_rows != len(pairs):
        yield f"{place}: {found.num_rows} rows of {found.num_columns} columns for {len(pairs)} pairs"
        return
    for name in expected.column_names:
        left, right = expected.column(name), found.column(name)
        if left.type != right.type:
            yield f"{name} is {left.type} in the warehouse, but {right.type} {place}"
            continue
        for row in np.flatnonzero(_unequal(left, right)):
            key, time = pairs.iloc[row][[load_catalog().entity_key, EVENT_TIMESTAMP]]
            yield (
                f"{name} of {key} at {time} is {left[row].as_py()!r} in the warehouse, "
                f"but {right[row].as_py()!r} {place}"
            )


def _unequal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> np.ndarray:
    """Where two columns of one type differ in a bit; a null equals a null and no value."""
    if pa.types.is_string(left.type):
        values = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return np.array([one != other for one, other in values], dtype=bool)
    missing_left, missing_right = (column.is_null().to_numpy() for column in (left, right))
    bits_left, bits_right = (column.fill_null(0).to_numpy().view(np.uint8) for column in (left, right))
    width = left.type.bit_width // 8
    return (missing_left != missing_right) | (bits_left != bits_right).reshape(-1, width).any(axis=1)
