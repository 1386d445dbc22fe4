"""Feast objects built from the catalog: one entity, six sources and feature views, the feature services."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.data_format import ParquetFormat
from feast.types import FeastType, Float64, Int32, String
from feast.value_type import ValueType

from feature_repo.catalog import Family, Feature, FeatureCatalog, load_catalog
from feature_repo.paths import feature_export_dir

ENTITY_NAME = "customer"
FEAST_TYPES: dict[str, FeastType] = {"integer": Int32, "double": Float64}

TTL = timedelta(days=7)
"""How long a snapshot D is served: in [D, D + 7 days], unless a later one takes over.

History is weekly, so a row between two snapshots finds one that is at most seven days old, while a customer
who left scope is served the last snapshot for a week and nothing afterwards. Feast's bound includes its end:
at exactly D + 7 days, a customer without a snapshot at that time is still served D. (A bound that excludes it
would need a ttl of 6 days 23:59:59.999999, and Feast's DuckDB store cannot express one in mixed units.)
"""

NEVER_MATERIALIZED = datetime(1970, 1, 1, tzinfo=UTC)
"""Where the progress mark of a view starts.

Without a mark, ``feast materialize-incremental T`` starts at *the wall clock* less the ttl, whatever T is:
with data that end a while ago it writes nothing, says success and moves the mark to T. A view that is
registered with its mark at the beginning of time starts there instead.
"""


@dataclass(frozen=True)
class Definitions:
    """Everything that is registered with Feast."""

    entity: Entity
    sources: tuple[FileSource, ...]
    views: tuple[FeatureView, ...]
    services: tuple[FeatureService, ...]


def build_definitions(catalog: FeatureCatalog | None = None, export_dir: Path | None = None) -> Definitions:
    """Build the Feast objects over the Parquet exports in ``export_dir`` (default: ``feature_export_dir()``).

    Views are named and ordered as the families of the catalog; a service selects its features out of them.
    Within a service Feast groups features by view; ``offline.historical_table`` restores the catalog's order.
    """
    catalog = catalog or load_catalog()
    export_dir = (export_dir or feature_export_dir()).resolve()
    entity = Entity(
        name=ENTITY_NAME,
        join_keys=[catalog.entity_key],
        value_type=ValueType.STRING,
        description=catalog.entity_description,
    )
    sources = tuple(_source(family, catalog, export_dir) for family in catalog.families)
    views = tuple(
        _view(family, catalog, entity, source)
        for family, source in zip(catalog.families, sources, strict=True)
    )
    services = tuple(_service(name, catalog, views) for name in catalog.services)
    return Definitions(entity, sources, views, services)


def _source(family: Family, catalog: FeatureCatalog, export_dir: Path) -> FileSource:
    return FileSource(
        name=f"{family.relation}_export",
        # Absolute, because Feast's DuckDB store reads a relative path from the working directory; and the
        # directory rather than a glob, because Feast looks at the path before DuckDB does and would warn that
        # it is missing.
        path=str(export_dir / family.relation),
        file_format=ParquetFormat(),
        timestamp_field=catalog.timestamp,
        description=f"Parquet export of the dbt model {family.relation}, one file a run",
    )


def _view(family: Family, catalog: FeatureCatalog, entity: Entity, source: FileSource) -> FeatureView:
    view = FeatureView(
        name=family.relation,
        entities=[entity],
        ttl=TTL,
        schema=[
            Field(name=catalog.entity_key, dtype=String, description=catalog.entity_description),
            *map(_field, family.features),
        ],
        source=source,
        online=True,
        description=family.description,
        tags={"family": family.name, "dbt_model": family.relation},
    )
    view.materialization_intervals = [(NEVER_MATERIALIZED, NEVER_MATERIALIZED)]
    return view


def _field(feature: Feature) -> Field:
    tags = {
        "position": str(feature.position),
        "unit": feature.unit,
        "categorical": str(feature.categorical).lower(),
    }
    if feature.window_days is not None:
        tags["window_days"] = str(feature.window_days)
    if feature.default is not None:
        tags["default"] = str(feature.default)
    return Field(
        name=feature.name,
        dtype=FEAST_TYPES[feature.data_type],
        description=feature.description,
        tags=tags,
    )


def _service(name: str, catalog: FeatureCatalog, views: tuple[FeatureView, ...]) -> FeatureService:
    wanted = set(catalog.service(name))
    selected = []
    for view in views:
        names = [field.name for field in view.features if field.name in wanted]
        if names:
            selected.append(view[names])
    return FeatureService(
        name=name,
        features=selected,
        description=f"The {len(wanted)} of {len(catalog.features)} features that {name} serves",
    )
