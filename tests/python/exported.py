"""A made-up warehouse and an export of it, for the tests of exports and of training on them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from unittest import mock

import duckdb
import numpy as np
import test_training
from test_training import CATALOG, made_up_snapshots, retrieve_from, warehouse_of

from training.export import Export, make_export
from training.export_files import write_export

AS_OF = test_training.AS_OF
SEED = 7
NEWCOMERS = tuple(f"n{number:04d}" for number in range(9))
SEGMENTS = (
    "case when days_since_last_session >= 30 then 'churned' when health_index >= 80 then 'thriving' when"
)
SEGMENTS += " health_index >= 40 then 'healthy' else 'at_risk' end"


def made_up_columns(customers: int) -> dict[str, np.ndarray]:
    """The marketplace of test_training with another number of customers, and the snapshot of its as-of day,
    which NEWCOMERS have alone.
    """
    with mock.patch.object(test_training, "CUSTOMERS", customers):
        columns = made_up_snapshots()
    last = np.flatnonzero(columns["feature_timestamp"] == columns["feature_timestamp"].max())
    newest = {name: values[last] for name, values in columns.items()}
    newest["feature_timestamp"] = np.full(len(last), np.datetime64(AS_OF, "us"))
    newcomers = {name: values[: len(NEWCOMERS)] for name, values in newest.items()}
    newcomers["customer_id"] = np.array(NEWCOMERS)
    return {name: np.concatenate([columns[name], newest[name], newcomers[name]]) for name in columns}


def warehouse_with_segments(columns: dict[str, np.ndarray]) -> duckdb.DuckDBPyConnection:
    """The warehouse of test_training with the segments that exports need."""
    warehouse = warehouse_of(columns)
    warehouse.execute(
        f"""
        create or replace table labels.customer_labels as
        select labels.*, {SEGMENTS} as segment
        from labels.customer_labels as labels
        inner join features.customer_features using (customer_id, feature_timestamp)
        """
    )
    return warehouse


def export_of(
    warehouse: duckdb.DuckDBPyConnection,
    sizes: dict[str, int] | None = None,
    as_of: datetime = AS_OF,
    seed: int = SEED,
) -> Export:
    """The export of a warehouse, features by a plain join."""
    return make_export(warehouse, retrieve_from(warehouse), CATALOG, as_of, sizes, seed)


def written(export: Export, folder: Path) -> dict[str, bytes]:
    """The bytes of the files of an export, by name."""
    write_export(export, CATALOG, folder)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the files in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
