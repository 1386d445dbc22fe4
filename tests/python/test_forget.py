"""`python -m scoring forget`: no trace stays, nobody else changes, and nobody comes back."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import redis
from conftest import dbt_build
from test_feast import CATALOG, LAST_RUN, synthetic_snapshots, write_configuration, write_warehouse
from test_materialization import OURS, configured

from feature_repo.store import apply, materialize, open_store
from scoring.__main__ import main
from streaming.history import HISTORY_FILE
from streaming.ledger import LEDGER_FILE, Ledger
from training.export import Export
from training.export_files import write_export
from training.records import SPLITS, Provenance, record_schema

CUSTOMER, OTHER, STRANGER = "customer-000", "customer-001", "customer-999"


@pytest.fixture(autouse=True)
def no_stream_ever_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream remembers is tested in test_stream.py."""
    monkeypatch.setenv("STREAM_DIR", str(tmp_path / "stream"))


def everything(path: Path) -> dict[str, list[tuple]]:
    """All rows of all tables but the log."""
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute(
            "select schema_name || '.' || table_name from duckdb_tables() "
            "where table_name <> 'forgotten_customers' order by 1"
        ).fetchall()
        return {
            name: connection.execute(f"select * from {name} order by all").fetchall() for (name,) in tables
        }


def exported(directory: Path) -> dict[Path, list[tuple]]:
    with duckdb.connect() as connection:
        return {
            file: connection.execute("select * from read_parquet(?) order by all", [str(file)]).fetchall()
            for file in sorted(directory.glob("*/*"))
        }


def write_training_export(folder: Path, customers: list[str]) -> None:
    """One record in each split."""
    schema = record_schema(CATALOG)
    values = {pa.string(): "healthy", pa.int32(): 1, pa.float64(): 0.5}
    records, entity_rows = {}, []
    for split, customer in zip(SPLITS, customers, strict=True):
        row = {field.name: values[field.type] for field in schema} | {CATALOG.entity_key: customer}
        records[split] = pa.Table.from_pylist([row], schema)
        entity_rows.append({CATALOG.entity_key: customer, "event_timestamp": LAST_RUN, "split": split})
    export = Export(records, pa.Table.from_pylist(entity_rows), Provenance(LAST_RUN, LAST_RUN), 1, 3)
    write_export(export, CATALOG, folder)


def without(rows: dict, customer: str) -> dict:
    return {place: [row for row in each if customer not in row] for place, each in rows.items()}


@pytest.mark.parametrize("store_type", ["sqlite", "redis"])
def test_no_trace_stays_and_nobody_else_changes(
    store_type: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    port = request.getfixturevalue("redis_port") if store_type == "redis" else None
    if port is not None:
        redis.Redis(port=port, db=1).flushdb()  # what other tests left there
    warehouse = write_warehouse(tmp_path, synthetic_snapshots(CATALOG), CATALOG)
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(configured(tmp_path, OURS, port)))
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(warehouse.exports))
    monkeypatch.setenv("WAREHOUSE_PATH", str(warehouse.path))
    monkeypatch.setenv("TRAINING_EXPORT_DIR", str(tmp_path / "training"))
    monkeypatch.setenv("STREAM_DIR", str(tmp_path / "stream"))
    ledger = Ledger(tmp_path / "stream" / LEDGER_FILE)
    ledger.reserve([CUSTOMER, OTHER], LAST_RUN.date(), LAST_RUN)
    ledger.close()
    with duckdb.connect(str(tmp_path / "stream" / HISTORY_FILE)) as history:
        history.execute("create table raw_calls as select ? as customer_id", [CUSTOMER])
    write_training_export(tmp_path / "training", [OTHER, CUSTOMER, "customer-002"])
    store = open_store()
    apply(store)
    materialize(store, LAST_RUN)

    assert main(["forget", STRANGER]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"Forgetting failed: There is no customer {STRANGER!r}: nothing holds that id."

    tables, exports = everything(warehouse.path), exported(warehouse.exports)
    assert without(tables, CUSTOMER) != tables
    assert without(exports, CUSTOMER) != exports
    # Killed after the warehouse was written: the repeat does the rest.
    with monkeypatch.context() as patched:

        def killed(*_: object) -> int:
            raise KeyboardInterrupt

        patched.setattr("scoring.forget._from_exports", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["forget", CUSTOMER])
    assert everything(warehouse.path) == without(tables, CUSTOMER)
    assert main(["forget", CUSTOMER]) == 0
    assert main(["forget", CUSTOMER]) == 0, "safe to repeat"
    assert everything(warehouse.path) == without(tables, CUSTOMER)
    assert exported(warehouse.exports) == without(exports, CUSTOMER)
    service = store.get_feature_service("customer_360")
    served = store.get_online_features(service, [{CATALOG.entity_key: CUSTOMER}]).to_dict()
    assert {served[name][0] for name in CATALOG.names} == {None}
    others = store.get_online_features(service, [{CATALOG.entity_key: OTHER}]).to_dict()
    assert None not in {others[name][0] for name in CATALOG.names}
    if port is not None:
        keys = list(redis.Redis(port=port, db=1).scan_iter())
        assert keys and not any(CUSTOMER.encode() in key for key in keys)

    with duckdb.connect(str(warehouse.path), read_only=True) as connection:
        log = connection.execute("select * from raw.forgotten_customers").fetchall()
    assert CUSTOMER not in str(log)
    assert {place for *_, place, _ in log} >= {
        "features.customer_features",
        f"online store ({store_type})",
        "training export",
        "stream ledger",
        "stream history",
    }
    ledger = Ledger(tmp_path / "stream" / LEDGER_FILE)
    assert ledger.published(LAST_RUN.date()) == [OTHER]
    ledger.close()
    assert OTHER in (tmp_path / "training" / "full_dataset.jsonl").read_text()
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "registry.db"]
    assert [file for file in files if file != warehouse.path and CUSTOMER.encode() in file.read_bytes()] == []
    assert main(["forget", STRANGER]) == 1


def test_the_next_night_does_not_bring_a_customer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import test_end_to_end

    raw = tmp_path / "raw"
    options = ["--customers=120", "--seed=5", "--start=2025-07-01", "--end=2026-02-01", f"--out={raw}"]
    test_end_to_end.command({}, "simulator", *options, "--no-report", "--quiet")
    warehouse, _ = dbt_build(raw, tmp_path, as_of="2026-01-20")
    customer = warehouse.rows("select max(customer_id) as id from features.customer_features")[0]["id"]
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(write_configuration(tmp_path)))
    monkeypatch.setenv("FEATURE_EXPORT_DIR", str(tmp_path / "export"))
    monkeypatch.setenv("WAREHOUSE_PATH", str(warehouse.path))
    monkeypatch.setenv("TRAINING_EXPORT_DIR", str(tmp_path / "training"))
    monkeypatch.setenv("STREAM_DIR", str(tmp_path / "stream"))
    before = warehouse.rows("select * from features.customer_features order by all")
    number = warehouse.rows(
        f"select customer_key from staging.base_customer_arrivals where customer_id = '{customer}'"
    )[0]["customer_key"]
    tables = everything(warehouse.path)
    assert any(number in row for row in tables["intermediate.int_customer_day_tiles"])
    assert main(["forget", customer]) == 0
    left = everything(warehouse.path)
    assert left == without(without(tables, customer), number)
    for file in sorted(raw.glob("*/*")):
        file.touch()  # everything is read once more
    dbt_build(raw, tmp_path, warehouse=warehouse.path, as_of="2026-01-21")
    assert without(everything(warehouse.path), customer) == everything(warehouse.path)
    after = warehouse.rows(
        "select * from features.customer_features where feature_timestamp <= '2026-01-20' order by all"
    )
    assert after == [row for row in before if row["customer_id"] != customer]
    newest = warehouse.rows(
        "select count(*) as n from features.customer_features where feature_timestamp = '2026-01-21'"
    )
    assert newest[0]["n"] > 0
    assert customer not in str(exported(tmp_path / "export"))
