"""Bad raw data stop a build before any model runs, with one sentence; CSV is as good as Parquet."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from conftest import dbt_build
from raw_data import RawData, hard_cases

# The models on which nothing but staging hangs: enough to read and judge all rows.
STAGING = ("+path:models/staging",)


@pytest.fixture(scope="module")
def raw() -> RawData:
    return hard_cases()[0]


@pytest.fixture
def directory(raw: RawData, tmp_path: Path) -> Path:
    return raw.write(tmp_path / "raw")


def refusal(run: subprocess.CompletedProcess[str]) -> str:
    """What dbt said, on one line without colours."""
    assert run.returncode != 0
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[\d+m", "", run.stdout))


def rewritten(table: Path, select: str) -> None:
    """Replace a table's files by one that holds a query over them (`old`)."""
    file = table / "rewritten.parquet"
    query = f"select {select} from read_parquet('{table}/*.parquet') as old"
    duckdb.sql(f"copy ({query}) to '{table}.new' (format parquet)")
    shutil.rmtree(table)
    table.mkdir()
    Path(f"{table}.new").rename(file)


def test_no_raw_data_says_how_to_get_them(tmp_path: Path) -> None:
    _, run = dbt_build(tmp_path / "nowhere", tmp_path / "work", select=STAGING, check=False)
    said = refusal(run)
    assert f"There are no raw data in {tmp_path / 'nowhere'}" in said
    assert "make run" in said
    assert "python -m simulator" in said
    assert not re.search(r"\d+ of \d+ (START|OK)", said), "a model ran"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda raw: shutil.rmtree(raw / "raw_calls"),
            r"Raw table raw_calls is missing: expected \S+/raw_calls/\*\.parquet .*, found no such",
        ),
        (
            lambda raw: rewritten(raw / "raw_payments", "* exclude (amount)"),
            r"Raw table raw_payments has no column amount: expected decimal\(12,2\), found only payment_id, ",
        ),
        (
            lambda raw: rewritten(raw / "raw_payments", "* replace (cast(amount as double) as amount)"),
            r"raw_payments, column amount is of the wrong type: expected decimal\(12,2\), found DOUBLE",
        ),
        (
            lambda raw: rewritten(
                raw / "raw_app_events", "* replace (occurred_at::timestamptz as occurred_at)"
            ),
            r"column occurred_at is of the wrong type: expected timestamp, found TIMESTAMP WITH TIME ZONE",
        ),
    ],
    ids=["missing table", "missing column", "money as double", "time with a zone"],
)
def test_broken_table_stops_the_build(
    directory: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(directory)
    _, run = dbt_build(directory, tmp_path / "work", select=STAGING, check=False)
    said = refusal(run)
    assert re.search(message, said), said[-2000:]
    assert not re.search(r"\d+ of \d+ (START|OK) .*model", said), "a model ran"


def test_too_many_rejected_rows_stop_the_build(directory: Path, tmp_path: Path) -> None:
    rewritten(
        directory / "raw_calls",
        "* replace (case when hash(call_id) % 2 = 0 then 7 else 0 end as sentiment_score)",
    )
    warehouse, run = dbt_build(
        directory,
        tmp_path / "work",
        select=(*STAGING, "+customer_features"),
        check=False,
        max_rejected_share=0.4,
    )
    assert re.search(
        r"Raw table raw_calls: \d+ of \d+ versions \(\d+\.\d %\) break the contract, "
        r"most often out_of_range; "
        r"more than max_rejected_share \(40\.0 %\)",
        refusal(run),
    )
    built = warehouse.rows("select table_name as relation from information_schema.tables")
    assert {"relation": "stg_calls"} in built
    assert {"relation": "customer_features"} not in built


def test_csv_gives_the_same_rows_as_parquet(raw: RawData, tmp_path: Path) -> None:
    # CSV has no empty text: an empty field is a null there.
    directory = raw.where(lambda row: "" not in row.values()).write(tmp_path / "raw")
    as_csv = tmp_path / "csv"
    for table in directory.iterdir():
        (as_csv / table.name).mkdir(parents=True)
        duckdb.sql(f"copy (from '{table}/*.parquet') to '{as_csv / table.name / 'all.csv'}' (header)")
    staged = {}
    for name, source in (("parquet", directory), ("csv", as_csv)):
        warehouse, _ = dbt_build(source, tmp_path / name, select=STAGING, max_rejected_share=1)
        feeds = [path.name.removeprefix("raw_") for path in directory.iterdir()]
        staged[name] = {
            feed: sorted(map(str, warehouse.rows(f"select * from staging.stg_{feed}"))) for feed in feeds
        }
    assert staged["csv"] == staged["parquet"]
    assert all(staged["csv"].values())


def test_csv_value_of_the_wrong_type_stops_the_build(directory: Path, tmp_path: Path) -> None:
    calls = directory / "raw_calls"
    query = f"select * replace ('soon' as called_at) from '{calls}/*.parquet' limit 3"
    duckdb.sql(f"copy ({query}) to '{tmp_path}/calls.csv' (header)")
    shutil.rmtree(calls)
    calls.mkdir()
    (tmp_path / "calls.csv").rename(calls / "calls.csv")
    _, run = dbt_build(directory, tmp_path / "work", select=STAGING, check=False)
    said = refusal(run)
    assert "column called_at is of the wrong type: expected timestamp, found the value 'soon'" in said


def test_a_quiet_table_that_holds_the_date_back_is_named(directory: Path, tmp_path: Path) -> None:
    """Real tables of tutors or customers change seldom; a date years back must not come as a surprise."""
    rewritten(
        directory / "raw_tutors", "* replace (least(loaded_at, timestamp '2024-02-03 02:00') as loaded_at)"
    )
    options = {"select": ("+int_as_of",), "max_rejected_share": 1.0}
    warehouse, run = dbt_build(directory, tmp_path / "work", **options)
    assert warehouse.rows("select cast(as_of as varchar) as day from intermediate.int_as_of") == [
        {"day": "2024-02-03"}
    ]
    said = re.sub(r"\s+", " ", run.stdout)
    latest = warehouse.rows("select cast(latest_landed_on as varchar) as day from intermediate.int_as_of")
    assert (
        "The latest snapshot is of 2024-02-03, because nothing of raw_tutors landed after it; other raw "
        f"tables reach to {latest[0]['day']}. When nothing is missing, name the date: --vars '{{as_of: "
    ) in said
    _, run = dbt_build(
        directory, tmp_path / "work", warehouse=warehouse.path, as_of=latest[0]["day"], **options
    )
    said = re.sub(r"\s+", " ", run.stdout)
    assert "raw_tutors has nothing that landed after 2024-02-03" in said
    assert "The latest snapshot is of" not in said
