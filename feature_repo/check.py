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
from feature_repo.catalog import ALL_FEATURES_SERVICE, WIDE_RELATION, FeatureCatalog, load_catalog
from feature_repo.offline import ARROW_TYPES, EVENT_TIMESTAMP, historical_table
from feature_repo.store import materialize

FEATURE_SCHEMA = "features"
WAREHOUSE_TYPES = {"String": "varchar", "Int32": "integer", "Float64": "double"}
"""Feast type → the type that a column has in the warehouse."""

Columns = list[tuple[str, str]]
"""Column names and types (as the dbt YAML writes them), in order."""


def warehouse_columns(warehouse: Path) -> dict[str, Columns]:
    """Columns of the relations of the schema ``features`` in a DuckDB file that nobody is writing."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        rows = connection.execute(
            """
            select table_name, column_name, lower(data_type) from information_schema.columns
            where table_schema = $schema order by table_name, ordinal_position
            """,
            {"schema": FEATURE_SCHEMA},
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
    """Columns of the Parquet exports, one relation a sub-directory of ``export_dir``.

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
    return relations


def column_differences(views: list[FeatureView], relations: Mapping[str, Columns]) -> list[str]:
    """Where feature views and their relations differ in the names, types or order of the columns.

    One sentence each; none when they agree. ``relations`` may hold more than the views serve.
    """
    catalog = load_catalog()
    keys = [(catalog.entity_key, "varchar"), (catalog.timestamp, "timestamp")]
    differences = []
    for view in views:
        served = keys + [(field.name, WAREHOUSE_TYPES[str(field.dtype)]) for field in view.features]
        if view.name in relations:
            differences += _relation_differences(view.name, served, relations[view.name])
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


def online_values(store: FeatureStore, customers: list[str]) -> pa.Table:
    """All features that the online store serves for ``customers``, in catalog order; null where it has none.

    Raises ``TypeError`` when a value is not of the feature's own type on the wire.
    """
    catalog = load_catalog()
    response = store.get_online_features(
        store.get_feature_service(ALL_FEATURES_SERVICE),
        [{catalog.entity_key: customer} for customer in customers],
    ).proto
    wire = {"integer": "int32_val", "double": "double_val"}
    results = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    columns = {}
    for feature in catalog.features:
        values = []
        for value in results[feature.name].values:
            kind = value.WhichOneof("val")
            if kind not in (None, wire[feature.data_type]):
                raise TypeError(f"{feature.name} is served as {kind}, expected {wire[feature.data_type]}.")
            values.append(None if kind is None else getattr(value, kind))
        columns[feature.name] = pa.array(values, ARROW_TYPES[feature.data_type])
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


def online_differences(store: FeatureStore, expected: pa.Table, pairs: pd.DataFrame) -> list[str]:
    """Where the online store differs from ``expected``, the features of the customers of ``pairs``."""
    customers = pairs[load_catalog().entity_key].tolist()
    return list(_differences("online", expected, online_values(store, customers), pairs))


def agreement_now(
    store: FeatureStore, warehouse: Path, as_of: datetime, customers: int, seed: int = 0
) -> list[str]:
    """Compare the values of random customers at ``as_of``, up to which the online store was materialized."""
    pairs = sample_pairs(warehouse, moments=1, customers=customers, seed=seed)
    pairs[EVENT_TIMESTAMP] = pd.Timestamp(as_of.astimezone(UTC)).as_unit("us")
    expected = warehouse_values(warehouse, pairs)
    offline = historical_table(store, pairs, ALL_FEATURES_SERVICE)
    return [*_differences("offline", expected, offline, pairs), *online_differences(store, expected, pairs)]


def _differences(place: str, expected: pa.Table, found: pa.Table, pairs: pd.DataFrame) -> Iterator[str]:
    catalog: FeatureCatalog = load_catalog()
    if found.column_names != list(catalog.names) or found.num_rows != len(pairs):
        yield f"{place}: {found.num_rows} rows of {found.num_columns} columns for {len(pairs)} pairs"
        return
    for feature in catalog.features:
        left, right = expected.column(feature.name), found.column(feature.name)
        if left.type != right.type:
            yield f"{feature.name} is {left.type} in the warehouse, but {right.type} {place}"
            continue
        for row in np.flatnonzero(_unequal(left, right)):
            key, time = pairs.iloc[row][[catalog.entity_key, EVENT_TIMESTAMP]]
            yield (
                f"{feature.name} of {key} at {time} is {left[row].as_py()!r} in the warehouse, "
                f"but {right[row].as_py()!r} {place}"
            )


def _unequal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> np.ndarray:
    """Where two columns of one type differ in a bit; a null equals a null and no value."""
    missing_left, missing_right = (column.is_null().to_numpy() for column in (left, right))
    bits_left, bits_right = (column.fill_null(0).to_numpy().view(np.uint8) for column in (left, right))
    width = left.type.bit_width // 8
    return (missing_left != missing_right) | (bits_left != bits_right).reshape(-1, width).any(axis=1)
