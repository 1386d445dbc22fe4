"""An export as files, whole or not at all: JSON lines, CSV, Parquet, and a manifest of what there is.

    train.jsonl validation.jsonl test.jsonl full_dataset.jsonl    a record a line
    train.parquet validation.parquet test.parquet full_dataset.parquet
    train.csv                                                     for people to look at
    entity_rows.parquet                                           the snapshot that each record is of
    manifest.json                                                 rows, bytes and SHA-256 of all of these

A folder is written beside its final place and exchanged with it. In S3 there is no rename: the manifest is
written last, and an address that has one is never written to again.
"""

import csv
import ctypes
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from feature_repo.catalog import ALL_FEATURES_SERVICE, FeatureCatalog
from feature_repo.files import sync
from training.errors import TrainingError
from training.export import Export
from training.models import SPECS
from training.records import (
    MANIFEST,
    MANIFEST_FORMAT,
    SEGMENT,
    SPLITS,
    Provenance,
    read_manifest,
    read_split,
    record_schema,
)

FULL = "full_dataset"
ENTITY_ROWS = "entity_rows"
_ROWS_AT_ONCE = 2_000
_CONNECT_SECONDS = 20


@dataclass(frozen=True)
class S3Prefix:
    """`s3://bucket/path`: where the files of one export go."""

    bucket: str
    path: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.path}"


def destination_of(text: str) -> Path | S3Prefix:
    """The folder or S3 prefix that `text` names. Raises ValueError for anything else."""
    if "://" not in text:
        return Path(text).expanduser().resolve()
    parts = urlsplit(text)
    path = parts.path.strip("/")
    if parts.scheme != "s3" or not parts.netloc or not path or parts.query or parts.fragment:
        raise ValueError(f"'{text}' is neither a folder nor an address like s3://bucket/exports/2026-07-01")
    return S3Prefix(parts.netloc, path)


def check_destination(destination: Path | S3Prefix) -> None:
    """Raise TrainingError when nothing may be written there, before any work is done."""
    if isinstance(destination, Path):
        _check_replaceable(destination)
    else:
        _s3_manifest(_s3(destination), destination)


def write_export(export: Export, catalog: FeatureCatalog, destination: Path | S3Prefix) -> dict[str, Any]:
    """Write the files of the export and return its manifest.

    A folder that holds an earlier export is replaced in one step. A prefix in S3 that holds the same export
    is left alone. Raises TrainingError when the place holds anything else, or cannot be written to; a folder
    is then as it was.
    """
    if isinstance(destination, S3Prefix):
        with tempfile.TemporaryDirectory(prefix="export-") as folder:
            manifest = _write_files(export, catalog, Path(folder))
            _upload(Path(folder), manifest, destination)
        return manifest
    _check_replaceable(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    except OSError as error:
        raise TrainingError(f"{destination} cannot be written: {error.strerror}.") from error
    try:
        manifest = _write_files(export, catalog, draft)
        draft.chmod(0o755)  # mkdtemp makes it private
        _put_in_place(draft, destination)
    except OSError as error:
        raise TrainingError(f"{destination} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def remove_customer(folder: Path, catalog: FeatureCatalog, customer: str) -> int:
    """Replace the export in a folder, if there is one, by the same without that customer's record.

    Returns the records removed, 0 or 1; with 0 the folder is left alone. Raises TrainingError as `read_split`
    and `write_export` do.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return 0
    others = pc.field(catalog.entity_key) != customer
    found = {split: read_split(folder, split, catalog) for split in SPLITS}
    records = {split: table.filter(others) for split, (table, _) in found.items()}
    removed = sum(len(table) - len(records[split]) for split, (table, _) in found.items())
    if removed:
        export = Export(
            records=records,
            entity_rows=pq.read_table(folder / f"{ENTITY_ROWS}.parquet").filter(others),
            provenance=Provenance.from_json(manifest),
            seed=manifest["seed"],
            available=manifest["customers_available"] - removed,
        )
        write_export(export, catalog, folder)
    return removed


def _write_files(export: Export, catalog: FeatureCatalog, folder: Path) -> dict[str, Any]:
    schema = record_schema(catalog)
    everything = pa.concat_tables(export.records.values()).sort_by(catalog.entity_key)
    tables = {**export.records, FULL: everything}
    rows = {}
    for name, table in tables.items():
        _write(folder / f"{name}.jsonl", json_lines(table))
        _write_parquet(folder / f"{name}.parquet", table, export)
        rows |= {f"{name}.jsonl": len(table), f"{name}.parquet": len(table)}
    _write(folder / "train.csv", csv_lines(export.records["train"]))
    _write_parquet(folder / f"{ENTITY_ROWS}.parquet", export.entity_rows, export)
    rows |= {"train.csv": len(export.records["train"]), f"{ENTITY_ROWS}.parquet": len(export.entity_rows)}
    manifest = {
        "format": MANIFEST_FORMAT,
        **export.provenance.as_json(),
        "seed": export.seed,
        "sizes": {split: len(export.records[split]) for split in SPLITS},
        "customers_available": export.available,
        "segments": _counts(everything[SEGMENT]),
        "labels_known": {spec.label: len(everything) - everything[spec.label].null_count for spec in SPECS},
        "feature_service": ALL_FEATURES_SERVICE,
        "columns": [{"name": field.name, "type": str(field.type)} for field in schema],
        "files": [_described(folder / name, count) for name, count in sorted(rows.items())],
    }
    _write(folder / MANIFEST, [json.dumps(manifest, indent=2) + "\n"])
    return manifest


def json_lines(table: pa.Table) -> Iterator[str]:
    """A JSON object a row. Doubles are written with the digits that give back the same bits."""
    for batch in table.to_batches(_ROWS_AT_ONCE):
        for record in batch.to_pylist():
            yield json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def csv_lines(table: pa.Table) -> Iterator[str]:
    """A header and a line a row, doubles as in json_lines, a missing label as nothing."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")

    def written(values: Iterable[object]) -> str:
        line.seek(0)
        line.truncate()
        writer.writerow(values)
        return line.getvalue()

    yield written(table.column_names)
    for batch in table.to_batches(_ROWS_AT_ONCE):
        for record in batch.to_pylist():
            yield written(record.values())


def _write(path: Path, texts: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(texts)
        sync(file)


def _write_parquet(path: Path, table: pa.Table, export: Export) -> None:
    with path.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(export.provenance.as_json()), file)
        sync(file)


def _described(path: Path, rows: int) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "file": path.name,
        "rows": rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counted = {each["values"]: each["counts"] for each in column.value_counts().to_pylist()}
    return dict(sorted(counted.items()))


# ----------------------------------------------------------------------------------------------------------
# A folder
# ----------------------------------------------------------------------------------------------------------


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TrainingError(f"{folder} is a file: name a folder to export to.")
    present = {path.name for path in folder.iterdir()}
    if not present:
        return
    manifest = read_manifest(folder)
    ours = set() if manifest is None else {MANIFEST, *(entry["file"] for entry in manifest["files"])}
    if not present <= ours:
        strange = sorted(present - ours)[0]
        raise TrainingError(
            f"{folder} holds {strange}, which is not of an export: name another folder, as this one would be "
            "replaced whole."
        )


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Make `draft` the folder; what was the folder, if anything, is `draft` afterwards."""
    if not folder.exists():
        draft.rename(folder)
    elif not _exchange(draft, folder):
        # No such call here: for an instant there is no folder. A reader sees one export whole, or none.
        old = draft.with_name(f"{draft.name}-old")
        folder.rename(old)
        draft.rename(folder)
        old.rename(draft)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step (Linux); False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


# ----------------------------------------------------------------------------------------------------------
# S3
# ----------------------------------------------------------------------------------------------------------


def _s3(prefix: S3Prefix) -> fs.FileSystem:
    # pyarrow 25 does not read the variables that name another endpoint (apache/arrow issue 49643).
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    try:
        if endpoint is None:
            region = fs.resolve_s3_region(prefix.bucket)
        return fs.S3FileSystem(
            endpoint_override=endpoint,
            region=region or "us-east-1",
            connect_timeout=_CONNECT_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
    except (OSError, ValueError) as error:
        raise _unreachable(prefix, error) from error


def _s3_manifest(filesystem: fs.FileSystem, prefix: S3Prefix) -> bytes | None:
    path = f"{prefix.bucket}/{prefix.path}/{MANIFEST}"
    try:
        bucket, found = filesystem.get_file_info([prefix.bucket, path])
        if bucket.type == fs.FileType.NotFound:
            raise TrainingError(f"There is no bucket {prefix.bucket}: {prefix} cannot be written.")
        if found.type == fs.FileType.NotFound:
            return None
        with filesystem.open_input_stream(path) as file:
            return file.read()
    except OSError as error:
        raise _unreachable(prefix, error) from error


def _upload(folder: Path, manifest: dict[str, Any], prefix: S3Prefix) -> None:
    filesystem = _s3(prefix)
    present = _s3_manifest(filesystem, prefix)
    if present is not None:
        if present == (folder / MANIFEST).read_bytes():
            return
        raise TrainingError(
            f"{prefix} holds another export, and an export in S3 never changes: name another prefix."
        )
    try:
        for name in [*(entry["file"] for entry in manifest["files"]), MANIFEST]:
            with filesystem.open_output_stream(f"{prefix.bucket}/{prefix.path}/{name}") as file:
                file.write((folder / name).read_bytes())
    except OSError as error:
        raise _unreachable(prefix, error) from error


def _unreachable(prefix: S3Prefix, error: Exception) -> TrainingError:
    return TrainingError(f"{prefix} cannot be written: {str(error).splitlines()[0]}")
