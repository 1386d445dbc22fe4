"""Features as they were known at given moments: Feast's historical retrieval with the order of the rows
kept."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore

from feature_repo.catalog import ARROW_TYPES, FeatureCatalog, load_catalog
from feature_repo.predictions import PREDICTIONS_SERVICE, load_predictions
from feature_repo.store import check_sources

EVENT_TIMESTAMP = "event_timestamp"
_ROW = "__row"


def historical_features(
    store: FeatureStore, entity_rows: pd.DataFrame, service: str, catalog: FeatureCatalog | None = None
) -> pd.DataFrame:
    """Features of ``service`` as known at each row's ``event_timestamp``.

    ``entity_rows`` has the entity key, ``event_timestamp`` (with a time zone, or without one in UTC) and any
    further columns, such as labels. Out come the same rows in the same order with the same index, repeated
    rows included: first the columns of ``entity_rows`` as they were, then the features of the service in
    catalog order, exactly the bits of the export. Integers are ``int32``, or the nullable ``Int32`` where a
    row has no snapshot in force (see ``build.TTL``); doubles are ``float64``, NaN in that case.

    Raises ``ValueError`` when a column is missing, null, or named like a feature, and ``StoreError`` when the
    registry reads another export directory or nothing was exported.
    """
    table = historical_table(store, entity_rows, service, catalog)
    columns = {}
    for field in table.schema:
        column = table.column(field.name)
        nullable = pa.types.is_integer(field.type) and column.null_count > 0
        columns[field.name] = column.to_pandas(
            types_mapper={pa.int32(): pd.Int32Dtype()}.get if nullable else None
        )
    features = pd.DataFrame(columns)
    features.index = entity_rows.index
    return pd.concat([entity_rows, features], axis="columns")


def historical_table(
    store: FeatureStore, entity_rows: pd.DataFrame, service: str, catalog: FeatureCatalog | None = None
) -> pa.Table:
    """What the service serves alone, in Arrow: columns of ``service_schema``, null where no snapshot is in
    force, row i for row i of ``entity_rows``. Otherwise as ``historical_features``."""
    catalog = catalog or load_catalog()
    schema = service_schema(service, catalog)
    names = schema.names
    _check_entity_rows(entity_rows, catalog, names)
    check_sources(store, service)
    if entity_rows.empty:
        return schema.empty_table()

    # Only what Feast needs travels through its join. Feast returns the rows in the order in which DuckDB
    # finished with them; the row number brings them back.
    keys = pd.DataFrame(
        {
            catalog.entity_key: entity_rows[catalog.entity_key].astype(str).to_numpy(),
            EVENT_TIMESTAMP: pd.to_datetime(entity_rows[EVENT_TIMESTAMP], utc=True).dt.as_unit("us").array,
            _ROW: np.arange(len(entity_rows)),
        }
    )
    with warnings.catch_warnings():
        # Feast turns deprecation warnings on, and ibis has one about DuckDB for every query.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = store.get_historical_features(keys, store.get_feature_service(service)).to_arrow()
    rows = found.column(_ROW).to_numpy()
    if len(rows) != len(keys):
        raise RuntimeError(f"Feast returned {len(rows):,} rows for {len(keys):,} entity rows.")
    return found.select(names).take(pa.array(np.argsort(rows))).cast(schema).combine_chunks()


def service_schema(service: str, catalog: FeatureCatalog | None = None) -> pa.Schema:
    """Names and Arrow types of what a service serves: features in catalog order, predictions in theirs.

    Raises ``CatalogError`` for an unknown service.
    """
    catalog = catalog or load_catalog()
    if service == PREDICTIONS_SERVICE:
        columns = load_predictions().columns
    else:
        columns = tuple(catalog.feature(name) for name in catalog.service(service))
    return pa.schema([(column.name, ARROW_TYPES[column.data_type]) for column in columns])


def _check_entity_rows(entity_rows: pd.DataFrame, catalog: FeatureCatalog, names: list[str]) -> None:
    for column in (catalog.entity_key, EVENT_TIMESTAMP):
        if column not in entity_rows.columns:
            raise ValueError(f"The entity rows have no column {column!r}.")
        if entity_rows[column].isna().any():
            raise ValueError(f"The entity rows have nulls in {column!r}.")
    for name in names:
        if name in entity_rows.columns:
            raise ValueError(f"The entity rows already have a column {name!r}, the name of a feature.")
