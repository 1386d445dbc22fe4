"""Exports: which records, equal to the warehouse bit by bit, in files that are whole or not there."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from exported import (
    AS_OF,
    NEWCOMERS,
    SEED,
    contents,
    export_of,
    made_up_columns,
    warehouse_with_segments,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from test_feast import write_configuration
from test_training import CATALOG, ROOT, run_command

from feature_repo.catalog import WIDE_RELATION
from feature_repo.store import apply, open_store
from training import export_files
from training.__main__ import main
from training.errors import TrainingError
from training.export import STANDARD_SIZES, Export, best_known, draw_snapshots, scaled_sizes, split_customers
from training.export_files import (
    S3Prefix,
    check_destination,
    destination_of,
    remove_customer,
    write_export,
)
from training.models import SPECS
from training.records import MANIFEST, SPLITS, read_split, record_schema
from training.split import CHOOSE, FIT, REPORT, customer_groups, customer_hashes

LABELS = [spec.label for spec in SPECS]
COLUMNS = ["customer_id", "segment", *CATALOG.names, *LABELS]
FILES = {
    *(f"{name}.{kind}" for name in (*SPLITS, "full_dataset") for kind in ("jsonl", "parquet")),
    "train.csv",
    "entity_rows.parquet",
    MANIFEST,
}
COLUMNS_OF_KEY = ("customer_id", "event_timestamp")
LONGEST = timedelta(days=max(spec.label_days for spec in SPECS))


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    return made_up_columns(320)


@pytest.fixture(scope="module")
def warehouse(columns):
    with warehouse_with_segments(columns) as connection:
        yield connection


@pytest.fixture(scope="module")
def export(warehouse) -> Export:
    return export_of(warehouse)


@pytest.fixture(scope="module")
def folder(export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exports") / "made" / "export"
    written(export, place)
    return place


def json_records(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def bits(value: object) -> object:
    """A float as its bytes, so that equal means equal to the last bit."""
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)


# ----------------------------------------------------------------------------------------------------------
# Which records
# ----------------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_partition_the_whole_and_keep_the_groups(export: Export, folder: Path) -> None:
    customers = {name: [record["customer_id"] for record in json_records(folder, name)] for name in SPLITS}
    everyone = [record["customer_id"] for record in json_records(folder, "full_dataset")]
    assert sorted(name for names in customers.values() for name in names) == everyone
    assert len(set(everyone)) == len(everyone) == export.available
    groups = {name: set(customer_groups(customer_hashes(each))) for name, each in customers.items()}
    assert groups == {"train": {FIT, CHOOSE}, "validation": {CHOOSE, REPORT}, "test": {REPORT}}
    # 7,000 : 1,500 : 1,500 of fewer customers than that.
    for name, size in STANDARD_SIZES.items():
        assert abs(len(customers[name]) - len(everyone) * size / 10_000) < 1


def complete(row: dict) -> bool:
    return row["event_timestamp"] + LONGEST < AS_OF


def test_every_customer_has_a_record_and_a_complete_one_wherever_there_is_one(warehouse, export) -> None:
    rows = export.entity_rows.to_pylist()
    first = dict(
        warehouse.execute(
            "select customer_id, min(feature_timestamp) from labels.customer_labels"
            " where feature_timestamp <= $1 group by all",
            [AS_OF],
        ).fetchall()
    )
    assert len(rows) == len(first) == export.available
    assert {row["customer_id"] for row in rows} == first.keys() >= set(NEWCOMERS)
    for row in rows:
        drawn, earliest = row["event_timestamp"], first[row["customer_id"]]
        assert drawn.weekday() == 0 or drawn == AS_OF
        # As many labels are known of it as of the customer's first snapshot, of which most are.
        assert matured(drawn) == matured(earliest), row
    assert {complete(row) for row in rows} == {True, False}
    assert all(row["event_timestamp"] == AS_OF for row in rows if row["customer_id"] in NEWCOMERS)
    # Not all at one end of their history.
    assert len({row["event_timestamp"] for row in rows if complete(row)}) > 40


def matured(snapshot: datetime, as_of: datetime = AS_OF) -> set[str]:
    """The labels that are known of a snapshot; the first session's only where it applies."""
    return {spec.label for spec in SPECS if snapshot + timedelta(days=spec.label_days) < as_of}


def test_a_label_is_null_exactly_where_it_is_not_mature_or_does_not_apply(warehouse, export) -> None:
    snapshots = dict(zip(*(export.entity_rows[name].to_pylist() for name in COLUMNS_OF_KEY), strict=True))
    found = warehouse.execute(
        f"select customer_id, feature_timestamp, {', '.join(LABELS)} from labels.customer_labels"
    ).fetchall()
    given = {(customer, snapshot): labels for customer, snapshot, *labels in found}
    nulls = Counter()
    for record in (row for name in SPLITS for row in export.records[name].to_pylist()):
        snapshot = snapshots[record["customer_id"]]
        for label, value in zip(LABELS, given[record["customer_id"], snapshot], strict=True):
            known = label in matured(snapshot) and value is not None
            assert (record[label] is not None) == known, (label, snapshot)
            nulls[label] += not known
    assert all(nulls[label] >= len(NEWCOMERS) for label in LABELS)
    # The longer a label takes, the more records lack it.
    assert nulls["label_session_velocity"] < nulls["label_churn_risk_14d"] < nulls["label_churn_risk_30d"]
    assert nulls["label_churn_risk_30d"] < len(snapshots) / 3


def test_what_comes_after_a_snapshot_moves_no_record(columns, export) -> None:
    """Neither the choice of a snapshot nor what is null may hang on what labels say."""
    other = dict(columns)
    for spec in SPECS:
        values = columns[spec.label].copy()
        known = ~np.isnan(values)
        values[known] = 1 - values[known] if spec.kind == "probability" else 7.5
        other[spec.label] = values
    with warehouse_with_segments(other) as changed:
        again = export_of(changed)
    assert again.entity_rows.equals(export.entity_rows)
    for name in SPLITS:
        one, two = export.records[name], again.records[name]
        assert one.drop_columns(LABELS).equals(two.drop_columns(LABELS))
        assert [one[label].is_null() for label in LABELS] == [two[label].is_null() for label in LABELS]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=60))
def test_the_best_known_rows_are_those_of_each_customer_with_most_labels(rows) -> None:
    hashes, known = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    expected = [
        number
        for number, (customer, labels) in enumerate(rows)
        if labels == max(other for same, other in rows if same == customer)
    ]
    assert best_known(hashes, known).tolist() == expected


def test_labels_end_before_the_data_end_whatever_day_it_is(warehouse) -> None:
    # Labels end at midnights after Mondays; as of such a midnight the label that ends there does not count,
    # as a model that learned from it would not score that day's snapshot.
    monday = AS_OF - timedelta(days=14 * 7)
    for spec in SPECS:
        as_of = monday + timedelta(days=spec.label_days)
        for day in (as_of, as_of + timedelta(days=1)):
            export = export_of(warehouse, as_of=day)
            assert export.provenance.data_as_of == day
            assert export.provenance.labels_until == labels_end(export) < day
    whole = export_of(warehouse, as_of=monday + LONGEST)
    assert latest_complete(whole) == monday - timedelta(days=7)
    assert latest_complete(export_of(warehouse, as_of=monday + LONGEST + timedelta(days=1))) == monday


def labels_end(export: Export) -> datetime:
    """The last moment that a label of the export depends on."""
    snapshots = dict(zip(*(export.entity_rows[name].to_pylist() for name in COLUMNS_OF_KEY), strict=True))
    return max(
        snapshots[record["customer_id"]] + timedelta(days=spec.label_days)
        for name in SPLITS
        for record in export.records[name].to_pylist()
        for spec in SPECS
        if record[spec.label] is not None
    )


def latest_complete(export: Export) -> datetime:
    """The latest snapshot in the export with all the labels that every snapshot gets."""
    always = [spec.label for spec in SPECS if not spec.only_before_first_session]
    snapshots = dict(zip(*(export.entity_rows[name].to_pylist() for name in COLUMNS_OF_KEY), strict=True))
    return max(
        snapshots[record["customer_id"]]
        for name in SPLITS
        for record in export.records[name].to_pylist()
        if all(record[label] is not None for label in always)
    )


def test_records_equal_the_warehouse_to_the_last_bit(warehouse, folder: Path) -> None:
    snapshots = {
        row["customer_id"]: row["event_timestamp"]
        for row in pq.read_table(folder / "entity_rows.parquet").to_pylist()
    }
    found = warehouse.execute(
        f"""
        select {", ".join(COLUMNS)}, feature_timestamp
        from features.customer_features
        inner join labels.customer_labels using (customer_id, feature_timestamp)
        """
    ).fetchall()
    known = {(row[0], row[-1]): dict(zip(COLUMNS, row[:-1], strict=True)) for row in found}
    counted = Counter()
    for name in (*SPLITS, "full_dataset"):
        parquet = pq.read_table(folder / f"{name}.parquet").to_pylist()
        records = json_records(folder, name)
        assert len(records) == len(parquet)
        for record, same in zip(records, parquet, strict=True):
            assert list(record) == COLUMNS
            expected = known[record["customer_id"], snapshots[record["customer_id"]]]
            for column in COLUMNS:
                wanted = expected[column]
                if column.startswith("label_") and column not in matured(snapshots[record["customer_id"]]):
                    wanted = None
                if wanted is not None and column.startswith("label_"):
                    kind = next(spec.kind for spec in SPECS if spec.label == column)
                    wanted = int(wanted) if kind == "probability" else float(wanted)
                assert bits(record[column]) == bits(same[column]) == bits(wanted), column
            counted[record["label_first_session_success"] is None] += 1
            assert all(record[column] is not None for column in COLUMNS if column not in LABELS)
    assert counted[True] and counted[False]


def test_the_csv_holds_the_records_of_train(folder: Path) -> None:
    with (folder / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = json_records(folder, "train")
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert list(row) == COLUMNS
        for name, text in row.items():
            value = record[name]
            assert text == "" if value is None else bits(type(value)(text)) == bits(value)


def test_columns_and_types_are_those_of_the_catalog(folder: Path) -> None:
    schema = pq.read_schema(folder / "full_dataset.parquet")
    assert schema.names == COLUMNS and len(CATALOG.names) == 59
    for feature in CATALOG.features:
        expected = "int32" if feature.data_type == "integer" else "double"
        assert str(schema.field(feature.name).type) == expected


def test_sizes_are_those_asked_for_and_too_many_are_refused(warehouse) -> None:
    sizes = {"train": 40, "validation": 7, "test": 12}
    export = export_of(warehouse, sizes)
    assert {name: len(export.records[name]) for name in SPLITS} == sizes
    with pytest.raises(TrainingError, match=r"300 \+ 15 \+ 15 records .* only \d+ customers") as caught:
        export_of(warehouse, {"train": 300, "validation": 15, "test": 15})
    assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="No snapshot has all its labels"):
        export_of(warehouse, as_of=AS_OF.replace(year=2024, month=6))


@given(st.integers(0, 40_000))
@settings(deadline=None)
def test_standard_sizes_scale_to_what_there_is(available: int) -> None:
    sizes = scaled_sizes(STANDARD_SIZES, available)
    assert sum(sizes.values()) == min(available, 10_000)
    for name, size in sizes.items():
        assert abs(size - STANDARD_SIZES[name] * min(available, 10_000) / 10_000) < 1
        assert size <= STANDARD_SIZES[name]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
@settings(deadline=None, max_examples=50)
def test_splitting_customers_keeps_sizes_and_order_of_groups(train, validation, test, salt) -> None:
    hashes = customer_hashes(f"{salt} {number}" for number in range(200))
    sizes = {"train": train, "validation": validation, "test": test}
    split = split_customers(hashes, sizes)
    assert Counter(split[split != ""]) == Counter({name: size for name, size in sizes.items() if size})
    percentiles = {name: hashes[split == name] % 100 for name in SPLITS}
    for lower, upper in (("test", "validation"), ("validation", "train"), ("test", "train")):
        if sizes[lower] and sizes[upper]:
            assert percentiles[lower].max() <= percentiles[upper].min()
    assert np.array_equal(split_customers(hashes[::-1], sizes)[::-1], split)


def marketplace(customers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, days and segments of customer-weeks: those who leave early have few weeks, most of them bad."""
    random = np.random.default_rng(3)
    weeks = random.integers(1, 60, customers)
    hashes = np.repeat(customer_hashes(map(str, range(customers))), weeks)
    age = np.concatenate([np.arange(each) for each in weeks])
    long_lived = np.repeat(weeks, weeks) > 20
    bad = random.random(len(age)) < np.where(long_lived, 0.1, 0.6)
    return (
        hashes,
        np.datetime64("2025-01-06", "us") + 7 * age * np.timedelta64(1, "D"),
        np.where(bad, "b", "a"),
    )


def test_a_customer_is_drawn_once_and_the_segment_mix_is_that_of_all_weeks() -> None:
    hashes, days, segments = marketplace(6_000)
    drawn = draw_snapshots(hashes, days, segments, seed=1)
    assert sorted(hashes[drawn]) == sorted(set(hashes))
    wanted = (segments == "b").mean()
    assert (segments[drawn] == "b").mean() == pytest.approx(wanted, abs=0.02)
    # Drawing without weights would not do: short-lived customers count as much as the others.
    customers = np.unique(hashes, return_inverse=True)[1]
    plain = np.mean(np.bincount(customers, segments == "b") / np.bincount(customers))
    assert abs(plain - wanted) > 0.05


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    hashes, days, segments = marketplace(300)
    one = draw_snapshots(hashes, days, segments, seed=1)
    shuffled = np.random.default_rng(0).permutation(len(hashes))
    other = shuffled[draw_snapshots(hashes[shuffled], days[shuffled], segments[shuffled], seed=1)]
    assert set(one) == set(other)
    assert len(set(one) - set(draw_snapshots(hashes, days, segments, seed=2))) > 50
    # Another week changes the choice for few.
    earlier = np.flatnonzero(days < days.max())
    before = earlier[draw_snapshots(hashes[earlier], days[earlier], segments[earlier], seed=1)]
    assert len(set(one) - set(before)) < 15


# ----------------------------------------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------------------------------------


def test_the_manifest_lists_every_file_with_its_checksum(folder: Path, export: Export) -> None:
    files = contents(folder)
    assert set(files) == FILES
    manifest = json.loads(files[MANIFEST])
    assert {entry["file"] for entry in manifest["files"]} == FILES - {MANIFEST}
    for entry in manifest["files"]:
        content = files[entry["file"]]
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
        lines = content.count(b"\n")
        if entry["file"].endswith(".parquet"):
            assert entry["rows"] == pq.read_metadata(folder / entry["file"]).num_rows
        else:
            assert entry["rows"] == lines - entry["file"].endswith(".csv")
    assert [column["name"] for column in manifest["columns"]] == COLUMNS
    assert manifest["seed"] == SEED and manifest["data_as_of"] == AS_OF.isoformat()
    segments = Counter(record["segment"] for record in json_records(folder, "full_dataset"))
    assert manifest["segments"] == segments
    known = Counter()
    for record in json_records(folder, "full_dataset"):
        known.update(label for label in LABELS if record[label] is not None)
    assert manifest["labels_known"] == known


def test_equal_data_give_equal_bytes_whatever_their_order(columns, folder: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(columns["customer_id"]))
    with warehouse_with_segments({name: values[order] for name, values in columns.items()}) as shuffled:
        assert written(export_of(shuffled), tmp_path / "again") == contents(folder)
        assert written(export_of(shuffled, seed=SEED + 1), tmp_path / "other") != contents(folder)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_files_are_read_back_as_they_were_written(export: Export, folder: Path, tmp_path, suffix) -> None:
    for name in SPLITS:
        (tmp_path / f"{name}.{suffix}").write_bytes((folder / f"{name}.{suffix}").read_bytes())
        table, provenance = read_split(tmp_path, name, CATALOG)
        assert table.equals(export.records[name]) and table.schema.equals(record_schema(CATALOG))
        assert provenance == (export.provenance if suffix == "parquet" else None)
        assert read_split(folder, name, CATALOG)[1] == export.provenance


@pytest.mark.parametrize("exchange", [True, False])
def test_an_export_replaces_an_earlier_one_whole(warehouse, export, tmp_path, monkeypatch, exchange) -> None:
    if not exchange:
        monkeypatch.setattr(export_files, "_exchange", lambda one, other: False)
    place = tmp_path / "exports"
    small = written(export_of(warehouse, {"train": 5, "validation": 1, "test": 1}), place)
    assert written(export, place) != small
    assert set(contents(place)) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]
    assert place.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("failing", [1, 4, 8, 11])
def test_a_failing_write_leaves_the_earlier_export(warehouse, export, tmp_path, monkeypatch, failing) -> None:
    place = tmp_path / "exports"
    before = written(export_of(warehouse, {"train": 5, "validation": 1, "test": 1}), place)
    calls = []
    sync = os.fsync

    def full_disk(handle: int) -> None:
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(TrainingError, match=r"exports cannot be written: No space left"):
        write_export(export, CATALOG, place)
    assert len(calls) == failing
    assert contents(place) == before
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]


KILLED = """
import os, signal, sys
from pathlib import Path
from feature_repo.catalog import load_catalog
from training.export import Export
from training.export_files import write_export
from training.records import SPLITS, read_split
import pyarrow.parquet as pq
source, target, left = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
read = {name: read_split(source, name, load_catalog()) for name in SPLITS}
export = Export(
    {name: table for name, (table, _) in read.items()}, pq.read_table(source / "entity_rows.parquet"),
    read["train"][1], 1, 1,
)
sync = os.fsync
def kill(handle):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)
os.fsync = kill
write_export(export, load_catalog(), target)
"""


def test_a_killed_write_leaves_the_earlier_export(warehouse, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "exports"
    before = written(export_of(warehouse, {"train": 5, "validation": 1, "test": 1}), place)
    command = [sys.executable, "-c", KILLED, str(folder), str(place)]
    for left in ("1", "11"):
        run = subprocess.run([*command, left], cwd=ROOT, check=False, capture_output=True, timeout=60)
        assert run.returncode == -signal.SIGKILL, run.stderr.decode()
        assert contents(place) == before
    subprocess.run([*command, "100"], cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert contents(place)["train.jsonl"] == contents(folder)["train.jsonl"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_customer_is_removed_as_if_never_drawn(export: Export, tmp_path: Path, split: str) -> None:
    place = tmp_path / "export"
    before = written(export, place)
    customer = export.records[split][CATALOG.entity_key][0].as_py()
    assert remove_customer(place, CATALOG, "nobody") == 0
    assert contents(place) == before
    assert remove_customer(place, CATALOG, customer) == 1
    others = pc.field(CATALOG.entity_key) != customer
    expected = dataclasses.replace(
        export,
        records={name: table.filter(others) for name, table in export.records.items()},
        entity_rows=export.entity_rows.filter(others),
        available=export.available - 1,
    )
    assert contents(place) == written(expected, tmp_path / "expected")
    assert remove_customer(place, CATALOG, customer) == 0
    assert remove_customer(tmp_path / "nowhere", CATALOG, customer) == 0


def test_a_folder_that_is_not_an_export_is_never_replaced(export: Export, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    written(export, mine)  # an empty folder will do
    (mine / "notes.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / MANIFEST).write_text("{}")
    for place, sentence in (
        (mine, "holds notes.txt, which is not of an export"),
        (file, "is a file"),
        (file / "below", "cannot be written: "),
        (other, "is not the manifest of an export"),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(TrainingError, match=sentence):
            write_export(export, CATALOG, place)
        assert sorted(tmp_path.rglob("*")) == before


def test_destinations_are_folders_or_prefixes_in_s3(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert destination_of("exports") == tmp_path.resolve() / "exports"
    assert destination_of("s3://bucket/a/b/") == S3Prefix("bucket", "a/b")
    for wrong in ("s3://bucket", "s3:///a", "ftp://host/a", "s3://bucket/a?region=x"):
        with pytest.raises(ValueError, match="neither a folder nor an address like s3://"):
            destination_of(wrong)


# ----------------------------------------------------------------------------------------------------------
# S3
# ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch, request):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    name = f"bucket-{abs(hash(request.node.name))}"
    bucket = boto3.resource("s3").Bucket(name)
    bucket.create()
    return bucket


def objects(bucket) -> dict[str, bytes]:
    return {each.key: each.get()["Body"].read() for each in bucket.objects.all()}


def test_s3_gets_the_same_bytes(bucket, export: Export, folder: Path) -> None:
    prefix = destination_of(f"s3://{bucket.name}/exports/first/")
    check_destination(prefix)
    write_export(export, CATALOG, prefix)
    assert objects(bucket) == {f"exports/first/{name}": content for name, content in contents(folder).items()}


def test_an_export_in_s3_is_completed_but_never_changed(bucket, warehouse, export: Export) -> None:
    prefix = S3Prefix(bucket.name, "exports")
    bucket.put_object(Key="exports/train.jsonl", Body=b"half of it")  # of a run that died
    write_export(export, CATALOG, prefix)
    whole = objects(bucket)
    assert len(whole) == len(FILES) and whole["exports/train.jsonl"] != b"half of it"
    write_export(export, CATALOG, prefix)
    other = export_of(warehouse, {"train": 5, "validation": 1, "test": 1})
    with pytest.raises(TrainingError, match=r"holds another export, and an export in S3 never changes"):
        write_export(other, CATALOG, prefix)
    assert objects(bucket) == whole


def test_the_manifest_is_written_last(bucket, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(path: Path) -> bytes:
        if path.name == "validation.jsonl":
            raise OSError("the line is dead")
        return path.open("rb").read()

    with monkeypatch.context() as patched, pytest.raises(TrainingError, match="the line is dead"):
        # After the files are written and summed up: reading them again is the upload.
        patched.setattr(export_files, "_described", lambda path, rows: {"file": path.name, "rows": rows})
        patched.setattr(Path, "read_bytes", die)
        write_export(export, CATALOG, S3Prefix(bucket.name, "exports"))
    assert objects(bucket) and f"exports/{MANIFEST}" not in objects(bucket)


def test_a_bucket_that_is_not_there_is_named(bucket, export: Export, monkeypatch) -> None:
    missing = S3Prefix("no-such-bucket", "exports")
    for action in (lambda: check_destination(missing), lambda: write_export(export, CATALOG, missing)):
        with pytest.raises(TrainingError, match="There is no bucket no-such-bucket"):
            action()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(TrainingError, match="s3://no-such-bucket/exports cannot be written") as caught:
        check_destination(missing)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------
# The command
# ----------------------------------------------------------------------------------------------------------


def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path: Path) -> None:
    missing = run_command("export", WAREHOUSE_PATH=str(tmp_path / "none.duckdb"))
    assert missing.returncode == 1 and "Export failed. There is no warehouse" in missing.stderr
    for arguments, words in (
        (["--to", "gs://bucket/x"], "'gs://bucket/x' is neither a folder nor an address"),
        (["--train", "many"], "'many' is not a number of records"),
    ):
        wrong = run_command("export", *arguments)
        assert wrong.returncode == 2 and words in wrong.stderr
    helped = run_command("export", "--help")
    assert helped.returncode == 0
    for word in (
        "--to",
        "--train",
        "--validation",
        "--test",
        "--as-of",
        "--seed",
        "7,000",
        "AWS_ENDPOINT_URL",
    ):
        assert word in helped.stdout


def test_the_command_exports_from_feast_what_a_plain_join_gives(
    warehouse, folder, tmp_path, bucket, monkeypatch, caplog, capsys
) -> None:
    source = warehouse.cursor()
    (tmp_path / "features" / WIDE_RELATION).mkdir(parents=True)
    source.execute(
        f"copy features.{WIDE_RELATION}"
        f" to '{tmp_path / 'features' / WIDE_RELATION / 'part.parquet'}' (format parquet)"
    )
    source.execute(f"attach '{tmp_path / 'warehouse.duckdb'}' as written")
    source.execute("create schema written.features; create schema written.labels")
    for table in ("features.customer_features", "labels.customer_labels"):
        source.execute(f"create table written.{table} as from memory.{table}")
    source.execute("detach written")
    monkeypatch.setenv("WAREHOUSE_PATH", str(tmp_path / "warehouse.duckdb"))
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(tmp_path / "features"))
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(write_configuration(tmp_path)))
    place, as_of = tmp_path / "exports", f"--as-of={AS_OF:%Y-%m-%d}"
    # Before `feast apply`:
    assert main(["export", f"--to={place}", as_of]) == 1
    assert "python -m feature_repo apply" in " ".join(capsys.readouterr().err.split())
    apply(open_store())
    # An option that training has too stands before the command or after it.
    assert main([f"--seed={SEED}", "export", f"--to={place}", as_of]) == 0
    assert "fewer records than the standard 10000" in caplog.text
    assert contents(place) == contents(folder)
    assert main([as_of, "export", f"--seed={SEED}", f"--to=s3://{bucket.name}/exports"]) == 0
    assert objects(bucket) == {f"exports/{name}": content for name, content in contents(folder).items()}
    assert main(["export", "--train=5000", f"--to={place}", as_of]) == 1
    assert "5,000 + 1,500 + 1,500 records were asked for" in " ".join(capsys.readouterr().err.split())
    assert contents(place) == contents(folder)
