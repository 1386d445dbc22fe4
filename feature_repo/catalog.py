"""The 59 features as Python sees them, read from the dbt YAML that defines them.

No feature is named in Python anywhere: Feast, training and scoring take names, types, order and feature
services from ``load_catalog()``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import yaml

from feature_repo.paths import features_yaml

WIDE_RELATION = "customer_features"
FAMILY_ORDER = ("session", "call", "engagement", "payment", "tutor", "profile")
ALL_FEATURES_SERVICE = "customer_360"
FEATURE_COUNT = 59
DATA_TYPES = ("integer", "double")
ARROW_TYPES = {"integer": pa.int32(), "double": pa.float64(), "varchar": pa.string()}
KEY_COLUMNS = 2
"""Every relation starts with the entity key and the snapshot time; the features follow."""


class CatalogError(ValueError):
    """The YAML of the features contradicts itself; the message says where, in one sentence."""


@dataclass(frozen=True)
class Feature:
    """One feature: a column of ``customer_features`` and of exactly one family."""

    name: str
    position: int
    family: str
    data_type: str
    """``integer`` (32 bits) or ``double`` (64 bits)."""
    categorical: bool
    window_days: int | None
    default: str | int | float | None
    """Value when there is nothing to compute from, or the words that define it; None when there always is."""
    unit: str
    description: str
    feature_services: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """The features that are served together: one dbt model, one Feast feature view."""

    name: str
    relation: str
    description: str
    features: tuple[Feature, ...]
    """In the order of the relation's columns."""


@dataclass(frozen=True)
class FeatureCatalog:
    """All features, by position (1 to 59), by family and by feature service."""

    entity_key: str
    entity_description: str
    timestamp: str
    features: tuple[Feature, ...]
    families: tuple[Family, ...]
    services: Mapping[str, tuple[str, ...]]
    """Feature service → its feature names in catalog order; ``customer_360`` has all."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all features in catalog order."""
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> Feature:
        """The feature of that name. Raises ``CatalogError`` when there is none."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise CatalogError(f"There is no feature {name!r} in the catalog.")

    def service(self, name: str) -> tuple[str, ...]:
        """Feature names of a service in catalog order. Raises ``CatalogError`` for an unknown one."""
        if name not in self.services:
            known = ", ".join(self.services)
            raise CatalogError(f"There is no feature service {name!r}; the catalog has {known}.")
        return self.services[name]


def load_catalog(path: Path | None = None) -> FeatureCatalog:
    """Read and validate the catalog (``models/features/_features.yml`` unless ``path`` is given).

    The result is cached per file version, so that callers may ask as often as they like.
    Raises ``CatalogError`` when the file is missing or contradicts itself.
    """
    path = (path or features_yaml()).resolve()
    try:
        modified = path.stat().st_mtime_ns
    except FileNotFoundError:
        raise CatalogError(f"The definition of the features is missing: there is no file {path}.") from None
    return _load(path, modified)


@lru_cache(maxsize=8)
def _load(path: Path, modified_ns: int) -> FeatureCatalog:
    with path.open(encoding="utf-8") as stream:
        return parse_catalog(yaml.safe_load(stream), source=path.name)


def parse_catalog(document: Mapping[str, Any], source: str = "_features.yml") -> FeatureCatalog:
    """Build the catalog from the parsed YAML. Raises ``CatalogError`` on the first contradiction."""
    models = {model["name"]: model for model in document.get("models") or []}
    relations = {family: f"customer_{family}_features" for family in FAMILY_ORDER}
    for relation in (WIDE_RELATION, *relations.values()):
        if relation not in models:
            raise CatalogError(f"{source} defines no model {relation!r}.")

    columns = models[WIDE_RELATION]["columns"]
    entity_key, timestamp = columns[:KEY_COLUMNS]
    features = tuple(sorted(map(_feature, columns[KEY_COLUMNS:]), key=lambda feature: feature.position))
    _check_features(features, [column["name"] for column in columns[KEY_COLUMNS:]])

    families = tuple(
        _family(name, relations[name], models[relations[name]], columns[:KEY_COLUMNS], features)
        for name in FAMILY_ORDER
    )
    services: dict[str, tuple[str, ...]] = {}
    for service in dict.fromkeys(service for feature in features for service in feature.feature_services):
        services[service] = tuple(f.name for f in features if service in f.feature_services)
    services[ALL_FEATURES_SERVICE] = tuple(feature.name for feature in features)

    return FeatureCatalog(
        entity_key=entity_key["name"],
        entity_description=entity_key["description"],
        timestamp=timestamp["name"],
        features=features,
        families=families,
        services=MappingProxyType(services),
    )


def _feature(column: Mapping[str, Any]) -> Feature:
    name = column["name"]
    meta = (column.get("config") or {}).get("meta") or {}
    for key in ("position", "family", "unit", "feature_services"):
        if key not in meta:
            raise CatalogError(f"Feature {name!r} has no config.meta.{key}.")
    if column.get("data_type") not in DATA_TYPES:
        expected = " or ".join(DATA_TYPES)
        raise CatalogError(
            f"Feature {name!r} has the data type {column.get('data_type')!r}, expected {expected}."
        )
    if meta["family"] not in FAMILY_ORDER:
        raise CatalogError(
            f"Feature {name!r} is of the family {meta['family']!r}, expected {', '.join(FAMILY_ORDER)}."
        )
    if ALL_FEATURES_SERVICE in meta["feature_services"]:
        raise CatalogError(f"Feature {name!r} lists {ALL_FEATURES_SERVICE!r}: it has every feature anyway.")
    return Feature(
        name=name,
        position=meta["position"],
        family=meta["family"],
        data_type=column["data_type"],
        categorical=bool(meta.get("categorical", False)),
        window_days=meta.get("window_days"),
        default=meta.get("default"),
        unit=meta["unit"],
        description=" ".join(str(column["description"]).split()),
        feature_services=tuple(meta["feature_services"]),
    )


def _check_features(features: tuple[Feature, ...], listed: list[str]) -> None:
    for name, count in Counter(listed).items():
        if count > 1:
            raise CatalogError(f"Feature {name!r} is defined {count} times.")
    for position, count in Counter(feature.position for feature in features).items():
        if count > 1:
            names = " and ".join(feature.name for feature in features if feature.position == position)
            raise CatalogError(f"Position {position} is taken by {names}.")
    if [feature.position for feature in features] != list(range(1, FEATURE_COUNT + 1)):
        missing = sorted(set(range(1, FEATURE_COUNT + 1)) - {feature.position for feature in features})
        raise CatalogError(
            f"The positions must run from 1 to {FEATURE_COUNT}; there are {len(features)} features"
            + (f", without position {', '.join(map(str, missing))}." if missing else ".")
        )
    for feature, name in zip(features, listed, strict=True):
        if feature.name != name:
            raise CatalogError(
                f"{WIDE_RELATION} lists {name!r} in the place of position {feature.position}, "
                f"which is that of {feature.name!r}."
            )


def _family(
    name: str,
    relation: str,
    model: Mapping[str, Any],
    key_columns: list[Mapping[str, Any]],
    features: tuple[Feature, ...],
) -> Family:
    columns = model["columns"]
    if columns[:KEY_COLUMNS] != key_columns:
        keys = " and ".join(column["name"] for column in key_columns)
        raise CatalogError(f"{relation} must start with {keys}, as {WIDE_RELATION} defines them.")
    by_name = {feature.name: feature for feature in features}
    members = []
    for column in columns[KEY_COLUMNS:]:
        feature = by_name.get(column["name"])
        if feature is None:
            raise CatalogError(f"{relation} has the column {column['name']!r}, which is not a feature.")
        if feature.family != name:
            raise CatalogError(
                f"{relation} has the feature {feature.name!r} of the family {feature.family!r}."
            )
        if _feature(column) != feature:
            raise CatalogError(f"{relation} defines the feature {feature.name!r} unlike {WIDE_RELATION}.")
        members.append(feature)
    repeated = [member for member, count in Counter(m.name for m in members).items() if count > 1]
    if repeated:
        raise CatalogError(f"{relation} has the feature {repeated[0]!r} more than once.")
    for feature in features:
        if feature.family == name and feature not in members:
            raise CatalogError(f"{relation} lacks the feature {feature.name!r} of the family {name!r}.")
    return Family(name, relation, " ".join(model["description"].split()), tuple(members))
