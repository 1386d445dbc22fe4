"""The records of an export, one a customer: their columns, and how training reads them back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from feature_repo.catalog import ARROW_TYPES, FeatureCatalog
from training.dataset import LAPSE_DAYS, Examples, check_enough
from training.errors import TrainingError
from training.models import SPECS, ModelSpec
from training.split import CHOOSE, FIT, NOWHERE, REPORT, customer_groups, customer_hashes

SPLITS = ("train", "validation", "test")
SEGMENT = "segment"
MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1

_BLOCKS = {"train": FIT, "validation": CHOOSE, "test": REPORT}
_LABEL_TYPES = {"probability": pa.int32(), "amount": pa.float64()}
# What Examples knows beside the features of a model's own service.
_POPULATION_COLUMNS = ("days_since_last_session", "total_sessions_lifetime")


@dataclass(frozen=True)
class Provenance:
    """Until when records know: the data end of the export, and the last moment that one of its labels
    depends on, which lies before the data end. Both naive UTC.
    """

    data_as_of: datetime
    labels_until: datetime

    def as_json(self) -> dict[str, str]:
        """The two as text, as they stand in the manifest and in the metadata of Parquet files."""
        return {"data_as_of": self.data_as_of.isoformat(), "labels_until": self.labels_until.isoformat()}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> "Provenance":
        """The reverse of `as_json`. Raises KeyError, TypeError or ValueError."""
        return cls(
            datetime.fromisoformat(described["data_as_of"]),
            datetime.fromisoformat(described["labels_until"]),
        )


def record_schema(catalog: FeatureCatalog, specs: Sequence[ModelSpec] = SPECS) -> pa.Schema:
    """customer_id, segment, the features in catalog order, the labels; labels alone may be null."""
    return pa.schema(
        [
            pa.field(catalog.entity_key, pa.string(), nullable=False),
            pa.field(SEGMENT, pa.string(), nullable=False),
            *(
                pa.field(feature.name, ARROW_TYPES[feature.data_type], nullable=False)
                for feature in catalog.features
            ),
            *(pa.field(spec.label, _LABEL_TYPES[spec.kind]) for spec in specs),
        ]
    )


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of an export, None when there is none. Raises TrainingError when it is unreadable."""
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != MANIFEST_FORMAT:
            raise TrainingError(
                f"{path} has format {manifest['format']}, and this code reads format {MANIFEST_FORMAT}."
            )
        Provenance.from_json(manifest)
        if not all(isinstance(entry["file"], str) for entry in manifest["files"]):
            raise TypeError("a file without a name")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is not the manifest of an export: {error!r}.") from error
    return manifest


def read_split(directory: Path, split: str, catalog: FeatureCatalog) -> tuple[pa.Table, Provenance | None]:
    """The records of `<split>.parquet`, or else `<split>.jsonl`, and what is known of their provenance.

    Where the directory has the export's manifest, the file must be the one that it lists. Raises
    TrainingError, naming file and column, when a file is missing, altered or not as `record_schema` says.
    """
    for name in (f"{split}.parquet", f"{split}.jsonl"):
        path = directory / name
        if path.exists():
            break
    else:
        raise TrainingError(f"There is neither {split}.parquet nor {split}.jsonl in {directory}.")
    manifest = read_manifest(directory)
    schema = record_schema(catalog)
    provenance = None
    if manifest is not None:
        _check_listed(path, manifest)
        provenance = Provenance.from_json(manifest)
    try:
        if path.suffix == ".parquet":
            found = pq.read_table(path)
            provenance = provenance or _provenance_of(found.schema)
        else:
            found = pa_json.read_json(
                path,
                parse_options=pa_json.ParseOptions(
                    explicit_schema=pa.schema([field.with_nullable(True) for field in schema]),
                    unexpected_field_behavior="ignore",
                ),
            )
    except (pa.ArrowException, OSError) as error:
        raise TrainingError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    return _checked(path, found, schema), provenance


def examples_of(
    records: Mapping[str, pa.Table], catalog: FeatureCatalog, specs: Sequence[ModelSpec] = SPECS
) -> dict[str, Examples]:
    """The examples of each model, by its name: fitted on train, chosen with validation, reported on test.

    Customers of the report group (training/split.py) are left out of train and validation, so that what is
    learned from an export can be judged on them beside any other version. The blocks are divided by customer
    and not by time: snapshots are NaT, and figures say nothing about later weeks. Raises TrainingError when
    a block has too few rows.
    """
    table = pa.concat_tables([records[split] for split in SPLITS])
    customers = table[catalog.entity_key].to_numpy()
    known, counts = np.unique(customers, return_counts=True)
    if len(known) != len(customers):
        repeated = known[counts > 1][0]
        raise TrainingError(f"Customer {repeated} is more than once among train, validation and test.")
    blocks = np.concatenate([np.full(len(records[split]), _BLOCKS[split], np.int8) for split in SPLITS])
    held_out = customer_groups(customer_hashes(customers)) == REPORT
    blocks[held_out & (blocks != REPORT)] = NOWHERE
    populations = {name: table[name].to_numpy().astype(np.float64) for name in _POPULATION_COLUMNS}
    features = {name: table[name].to_numpy().astype(np.float64) for name in catalog.names}
    examples = {}
    for spec in specs:
        labels = table[spec.label].to_numpy().astype(np.float64)  # null becomes NaN
        usable = ~np.isnan(labels)
        if spec.only_before_first_session:
            usable &= populations["total_sessions_lifetime"] == 0
        assigned = np.where(usable, blocks, NOWHERE)
        check_enough(spec, labels, populations["days_since_last_session"] < LAPSE_DAYS, assigned)
        rows = np.flatnonzero(assigned != NOWHERE)
        columns = catalog.service(spec.feature_service)
        examples[spec.name] = Examples(
            customer_ids=customers[rows],
            snapshots=np.full(len(rows), np.datetime64("NaT"), "datetime64[us]"),
            block=assigned[rows],
            labels=labels[rows],
            features=np.column_stack([features[name][rows] for name in columns]),
            columns=columns,
            extra={name: values[rows] for name, values in populations.items()},
        )
    return examples


def _check_listed(path: Path, manifest: Mapping[str, Any]) -> None:
    listed = {entry["file"]: entry.get("sha256") for entry in manifest["files"]}
    if listed.get(path.name) != hashlib.sha256(path.read_bytes()).hexdigest():
        raise TrainingError(
            f"{path} is not the file that {MANIFEST} beside it lists: copy the whole export again."
        )


def _provenance_of(schema: pa.Schema) -> Provenance | None:
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    try:
        return Provenance.from_json(metadata)
    except (KeyError, ValueError):
        return None


def _checked(path: Path, found: pa.Table, schema: pa.Schema) -> pa.Table:
    missing = [name for name in schema.names if name not in found.column_names]
    if missing:
        raise TrainingError(f"{path} has no column {', '.join(missing)}.")
    columns = []
    for field in schema:
        column = found[field.name]
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise TrainingError(
                f"{path} has {column.type} in {field.name}, and {field.type} is needed."
            ) from error
        if column.null_count and not field.nullable:
            raise TrainingError(f"{path} lacks {field.name} in {column.null_count} of {len(found)} records.")
    return pa.table(columns, schema=schema)
