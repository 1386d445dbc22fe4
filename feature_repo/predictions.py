"""The predictions as Feast serves them, read from the dbt YAML that defines ``customer_predictions``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from feature_repo.catalog import CatalogError, load_catalog
from feature_repo.paths import predictions_yaml

PREDICTIONS_RELATION = "customer_predictions"
PREDICTIONS_SCHEMA = "predictions"
PREDICTIONS_SERVICE = "customer_health_now"


@dataclass(frozen=True)
class PredictionColumn:
    """A served column of ``customer_predictions``: a score, the tier, a reason, its effect, the version."""

    name: str
    data_type: str
    """``double`` or ``varchar``."""
    description: str


@dataclass(frozen=True)
class ServedPredictions:
    """What the feature view ``customer_predictions`` serves."""

    description: str
    columns: tuple[PredictionColumn, ...]
    """In the order of the relation, without its keys."""
    not_served: frozenset[str]
    """Columns of the relation that are for audit in the warehouse alone."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the served columns in order."""
        return tuple(column.name for column in self.columns)


def load_predictions(path: Path | None = None) -> ServedPredictions:
    """Read the definition (``models/predictions/_predictions.yml`` unless ``path`` is given).

    Raises ``CatalogError`` when the file is missing or does not define the relation with the keys of the
    features.
    """
    path = (path or predictions_yaml()).resolve()
    try:
        return _load(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise CatalogError(
            f"The definition of the predictions is missing: there is no file {path}."
        ) from None


@lru_cache(maxsize=8)
def _load(path: Path, modified_ns: int) -> ServedPredictions:
    with path.open(encoding="utf-8") as stream:
        models = {model["name"]: model for model in yaml.safe_load(stream)["models"]}
    if PREDICTIONS_RELATION not in models:
        raise CatalogError(f"{path.name} defines no model {PREDICTIONS_RELATION!r}.")
    model = models[PREDICTIONS_RELATION]
    served, not_served = [], []
    for column in model["columns"]:
        meta = (column.get("config") or {}).get("meta") or {}
        (served if meta.get("served", True) else not_served).append(column)
    catalog = load_catalog()
    keys = [catalog.entity_key, catalog.timestamp]
    if [column["name"] for column in served[: len(keys)]] != keys:
        raise CatalogError(f"{PREDICTIONS_RELATION} must start with {' and '.join(keys)}.")
    return ServedPredictions(
        description=_one_line(model["description"]),
        columns=tuple(
            PredictionColumn(column["name"], column["data_type"], _one_line(column["description"]))
            for column in served[len(keys) :]
        ),
        not_served=frozenset(column["name"] for column in not_served),
    )


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
