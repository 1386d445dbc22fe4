"""Feast objects built from the dbt YAML: one entity, a feature view for each of the six families and for the
predictions, a source for the features and one for the predictions, the feature services."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast.data_format import ParquetFormat
from feast.types import FeastType, Float64, Int32, String
from feast.value_type import ValueType

from feature_repo.catalog import WIDE_RELATION, Family, Feature, FeatureCatalog, load_catalog
from feature_repo.paths import feature_export_dir
from feature_repo.predictions import (
    PREDICTIONS_RELATION,
    PREDICTIONS_SERVICE,
    ServedPredictions,
    load_predictions,
)

ENTITY_NAME = "customer"
FEAST_TYPES: dict[str, FeastType] = {"integer": Int32, "double": Float64, "varchar": String}

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
    sources: tuple[FileSource | PushSource, ...]
    views: tuple[FeatureView, ...]
    services: tuple[FeatureService, ...]


def build_definitions(catalog: FeatureCatalog | None = None, export_dir: Path | None = None) -> Definitions:
    """Build the Feast objects over the Parquet exports in ``export_dir`` (default: ``feature_export_dir()``).

    Views are named and ordered as the families of the catalog, then come the predictions; a service selects
    its features out of them. Within a service Feast groups features by view; ``offline.historical_table``
    restores the catalog's order.
    """
    catalog = catalog or load_catalog()
    export_dir = (export_dir or feature_export_dir()).resolve()
    entity = Entity(
        name=ENTITY_NAME,
        join_keys=[catalog.entity_key],
        value_type=ValueType.STRING,
        description=catalog.entity_description,
    )
    features_source = _source(WIDE_RELATION, catalog, export_dir)
    predictions_source = _source(PREDICTIONS_RELATION, catalog, export_dir)
    families = tuple(_family_view(family, catalog, entity, features_source) for family in catalog.families)
    predictions = _predictions_view(load_predictions(), catalog, entity, predictions_source)
    views = (*families, predictions)
    services = (
        *(_service(name, catalog, families) for name in catalog.services),
        FeatureService(
            name=PREDICTIONS_SERVICE,
            features=[predictions],
            description="What the champion predicts of a customer now: scores, tier, reasons, model version",
        ),
    )
    sources = (features_source, predictions_source, *(view.stream_source for view in views))
    return Definitions(entity, sources, views, services)


def served_relations(catalog: FeatureCatalog | None = None) -> tuple[str, ...]:
    """The relations that Feast serves, each by the feature view of its name: the families, then the
    predictions."""
    catalog = catalog or load_catalog()
    return (*(family.relation for family in catalog.families), PREDICTIONS_RELATION)


def exported_relation(served: str) -> str:
    """The relation in whose export a served relation is: the families share that of all features."""
    return served if served == PREDICTIONS_RELATION else WIDE_RELATION


def _source(relation: str, catalog: FeatureCatalog, export_dir: Path) -> FileSource:
    return FileSource(
        name=f"{relation}_export",
        # Absolute, because Feast's DuckDB store reads a relative path from the working directory; and the
        # directory rather than a glob, because Feast looks at the path before DuckDB does and would warn that
        # it is missing.
        path=str(export_dir / relation),
        file_format=ParquetFormat(),
        timestamp_field=catalog.timestamp,
        description=f"Parquet export of the dbt model {relation}, one file a run",
    )


def _family_view(family: Family, catalog: FeatureCatalog, entity: Entity, source: FileSource) -> FeatureView:
    fields = [_field(feature) for feature in family.features]
    return _view(
        family.relation, family.description, {"family": family.name}, fields, catalog, entity, source
    )


def _predictions_view(
    predictions: ServedPredictions, catalog: FeatureCatalog, entity: Entity, source: FileSource
) -> FeatureView:
    fields = [
        Field(name=column.name, dtype=FEAST_TYPES[column.data_type], description=column.description)
        for column in predictions.columns
    ]
    return _view(PREDICTIONS_RELATION, predictions.description, {}, fields, catalog, entity, source)


def _view(
    relation: str,
    description: str,
    tags: dict[str, str],
    fields: list[Field],
    catalog: FeatureCatalog,
    entity: Entity,
    source: FileSource,
) -> FeatureView:
    view = FeatureView(
        name=relation,
        entities=[entity],
        ttl=TTL,
        schema=[
            Field(name=catalog.entity_key, dtype=String, description=catalog.entity_description),
            *fields,
        ],
        # What is pushed between nights goes to the online store alone; history stays what the exports hold.
        source=PushSource(
            name=f"{relation}_push",
            batch_source=source,
            description=f"Rows of {relation} that the stream computes between nights",
        ),
        online=True,
        description=description,
        tags=tags | {"dbt_model": relation},
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
