"""Where things lie: one place for the directories that several packages share.

Every location can be moved by an environment variable. A relative value is relative to the root of the
repository, not to the working directory, so that a command means the same from whatever folder it is started.
"""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".partial"
"""What a file's name ends in while it is written; then it is renamed."""


def repository_root() -> Path:
    """The root of the checkout: the directory that holds ``feature_repo/``."""
    return Path(__file__).resolve().parents[1]


def _from_environment(variable: str, default: str) -> Path:
    # An empty variable counts as unset: `FEATURE_EXPORT_DIR= make run` must not mean the root of the
    # repository.
    return (repository_root() / (os.environ.get(variable) or default)).resolve()


def raw_data_dir() -> Path:
    """Directory of the raw tables, one sub-directory a table (``RAW_DATA_DIR``, default ``data/raw``)."""
    return _from_environment("RAW_DATA_DIR", "data/raw")


def warehouse_path() -> Path:
    """The DuckDB file that dbt builds (``WAREHOUSE_PATH``, default ``data/warehouse.duckdb``)."""
    return _from_environment("WAREHOUSE_PATH", "data/warehouse.duckdb")


def feature_export_dir() -> Path:
    """Directory of dbt's Parquet exports, a sub-directory for the features and one for the predictions
    (``FEATURE_EXPORT_DIR``, default ``data/features``)."""
    return _from_environment("FEATURE_EXPORT_DIR", "data/features")


def training_export_dir() -> Path:
    """Directory that `python -m training export` writes to (``TRAINING_EXPORT_DIR``, default
    ``data/exports``)."""
    return _from_environment("TRAINING_EXPORT_DIR", "data/exports")


def stream_dir() -> Path:
    """Directory of what `python -m streaming` remembers (``STREAM_DIR``, default ``data/stream``)."""
    return _from_environment("STREAM_DIR", "data/stream")


def models_dir() -> Path:
    """Directory of the trained models (``MODELS_DIR``, default ``data/models``)."""
    return _from_environment("MODELS_DIR", "data/models")


def feature_repo_dir() -> Path:
    """The Feast repository: the directory of this package and of ``feature_store.yaml``."""
    return Path(__file__).resolve().parent


def features_yaml() -> Path:
    """The dbt YAML file that defines the 59 features."""
    return repository_root() / "models" / "features" / "_features.yml"


def predictions_yaml() -> Path:
    """The dbt YAML file that defines the columns of the predictions."""
    return repository_root() / "models" / "predictions" / "_predictions.yml"


def dbt_manifest() -> Path:
    """The manifest that dbt wrote last (in ``DBT_TARGET_PATH``, default ``target``)."""
    return _from_environment("DBT_TARGET_PATH", "target") / "manifest.json"
