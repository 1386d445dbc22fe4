"""A night costs what is new, and a run may stop anywhere: what a build leaves is enough for the next one.

That nights add up to the same features as a build from scratch is shown in test_exactness.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import duckdb
import pytest
from conftest import ROOT, Warehouse, dbt_build, dbt_command
from raw_data import AS_OF, DAY, RawData, hard_cases
from reference.comparison import differences, report

OPTIONS = ("--exclude-resource-type", "test", "unit_test")
VARIABLES = {"as_of": str(AS_OF.date()), "max_rejected_share": 1}
FEATURES = "features.customer_features"
BASES = ("customers", "tutors", "sessions", "calls", "payments", "app_events", "tutor_availability")


@pytest.fixture(scope="module")
def raw() -> RawData:
    return hard_cases()[0].arrived_by(AS_OF)


@pytest.fixture(scope="module")
def fresh(raw: RawData, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Everything in one build."""
    work = tmp_path_factory.mktemp("fresh")
    return dbt_build(raw.write(work / "raw"), work, options=OPTIONS, **VARIABLES)[0]


def records(warehouse: Warehouse) -> dict[str, int]:
    """How many rows each base model and the tiles hold."""
    relations = [f"staging.base_{feed}" for feed in BASES] + ["intermediate.int_customer_day_tiles"]
    return {name: warehouse.rows(f"select count(*) as n from {name}")[0]["n"] for name in relations}


def staged(warehouse: Warehouse) -> dict[str, list[str]]:
    return {feed: sorted(map(str, warehouse.rows(f"select * from staging.stg_{feed}"))) for feed in BASES}


def killed_at(model: str, directory: Path, work: Path, as_of: datetime = AS_OF) -> None:
    """Start a build and kill it while it works on a model."""
    variables = VARIABLES | {"as_of": as_of}
    command, environment = dbt_command(
        directory, work, work / "warehouse.duckdb", options=OPTIONS, variables=variables
    )
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if re.search(rf"START .*{model}\b", line):
                run.kill()
                break
        else:
            raise AssertionError(f"{model} never started")


def test_a_build_may_be_killed_anywhere(raw: RawData, fresh: Warehouse, tmp_path: Path) -> None:
    """Killed in staging, in the tiles, in the order of sessions and in the features; then run once more."""
    directory = tmp_path / "raw"
    raw.landed_between(None, AS_OF - 7 * DAY).write(directory, name="before")
    dbt_build(directory, tmp_path, options=OPTIONS, **VARIABLES | {"as_of": AS_OF - 7 * DAY})
    raw.landed_between(AS_OF - 7 * DAY, AS_OF).write(directory, name="after")
    models = ["base_customers", "base_sessions", "int_customer_day_tiles", "int_customer_session_order"]
    for model in [*models, "customer_features"]:
        killed_at(model, directory, tmp_path)
    warehouse, _ = dbt_build(directory, tmp_path, options=OPTIONS, **VARIABLES)
    assert staged(warehouse) == staged(fresh)
    lines = differences(warehouse.keyed(FEATURES), fresh.keyed(FEATURES))
    assert not lines, report(lines)


def test_what_was_read_is_not_read_again(fresh: Warehouse) -> None:
    """A repeated build opens no file and writes no record."""
    work = fresh.path.parent
    before = records(fresh)
    read = fresh.rows("select * from raw.files_read")
    dbt_build(work / "raw", work, options=OPTIONS, **VARIABLES)
    assert records(fresh) == before
    assert fresh.rows("select * from raw.files_read") == read
    assert fresh.rows("select * from raw.unread_files") == []
    assert len(read) == 2 * len(BASES)


def test_a_file_delivered_twice_adds_nothing(raw: RawData, fresh: Warehouse, tmp_path: Path) -> None:
    """Under another name, and under its own: the same versions, and sums without a trace of it."""
    work = shutil.copytree(fresh.path.parent, tmp_path / "work")
    for file in sorted((work / "raw").glob("*/part-0.parquet")):
        shutil.copy(file, file.with_name("again.parquet"))
        file.touch()
    tiles = records(fresh)["intermediate.int_customer_day_tiles"]
    # the copied directory makes all paths new, so every file is read a second time
    warehouse, _ = dbt_build(work / "raw", work, options=OPTIONS, **VARIABLES)
    assert staged(warehouse) == staged(fresh)
    assert records(warehouse)["intermediate.int_customer_day_tiles"] == tiles
    assert warehouse.keyed(FEATURES) == fresh.keyed(FEATURES)


def test_staging_is_not_rebuilt_under_the_tiles(fresh: Warehouse, tmp_path: Path) -> None:
    """Its records would be counted a second time; the build says what to do instead."""
    work = shutil.copytree(fresh.path.parent, tmp_path / "work")
    dbt_build(work / "raw", work, select=["base_calls"], options=[*OPTIONS, "--full-refresh"], **VARIABLES)
    _, run = dbt_build(work / "raw", work, options=OPTIONS, check=False, **VARIABLES)
    said = re.sub(r"\s+", " ", run.stdout)
    assert run.returncode != 0
    assert "The base models of raw_calls were built anew after" in said
    assert "dbt build --full-refresh" in said
    (exported,) = (work / "export" / "customer_features").glob("*.parquet")
    shutil.copy(exported, exported.with_name("2024-01-01.parquet"))
    warehouse, _ = dbt_build(work / "raw", work, options=[*OPTIONS, "--full-refresh"], **VARIABLES)
    assert warehouse.keyed(FEATURES) == fresh.keyed(FEATURES)
    assert list(exported.parent.iterdir()) == [exported], "what is refreshed takes the place of all files"


def test_rows_without_a_key_are_judged_once(fresh: Warehouse, tmp_path: Path) -> None:
    """Others without one, which a later load brings, are no versions of them."""
    work = shutil.copytree(fresh.path.parent, tmp_path / "work")
    for hours in (1, 2):
        duckdb.sql(f"""
            copy (select * replace (null::varchar as call_id, loaded_at + interval {hours} hour as loaded_at)
                  from '{fresh.path.parent}/raw/raw_calls/part-0.parquet')
            to '{work}/raw/raw_calls/without_keys_{hours}.parquet'
        """)
        warehouse, _ = dbt_build(work / "raw", work, select=["base_calls"], options=OPTIONS, **VARIABLES)
    rows = warehouse.rows(
        "select recorded_in, count(*) as judged, count(replaced_in) as replaced from staging.base_calls "
        "where call_id is null and recorded_in > 1 group by recorded_in order by recorded_in"
    )
    assert len(rows) == 2
    assert all(row["judged"] > 0 and row["replaced"] == 0 for row in rows)


def test_what_cannot_change_is_not_recorded_again(fresh: Warehouse, tmp_path: Path) -> None:
    """A new version replaces the record of the one before it, and leaves those before that alone."""
    work = shutil.copytree(fresh.path.parent, tmp_path / "work")
    latest = fresh.rows(
        "select tutor_id, loaded_at from staging.stg_tutors where in_force_until is null order by all limit 1"
    )[0]
    # The first run reads the files of the copy.
    for days in range(4):
        if days:
            duckdb.sql(f"""
                copy (select distinct * replace (updated_at + interval {days} day as updated_at,
                                                 loaded_at + interval {days} day as loaded_at)
                      from '{fresh.path.parent}/raw/raw_tutors/*.parquet'
                      where tutor_id = '{latest["tutor_id"]}' and loaded_at = '{latest["loaded_at"]}')
                to '{work}/raw/raw_tutors/version_{days}.parquet'
            """)
        warehouse, _ = dbt_build(work / "raw", work, select=["base_tutors"], options=OPTIONS, **VARIABLES)
        if not days:
            first_run = warehouse.rows("select run_number from raw.this_run")[0]["run_number"]
    rows = warehouse.rows(
        f"select written_in - {first_run} as night, count(*) - count(replaced_in) as current, "
        "count(replaced_in) as replaced "
        f"from staging.base_tutors where written_in > {first_run} group by night order by night"
    )
    # Each night records the version before once more, with its end, and the last one also its new version.
    assert [tuple(row.values()) for row in rows] == [(1, 1, 1), (2, 1, 1), (3, 2, 1)]


def test_an_engine_that_hashes_otherwise_is_noticed(fresh: Warehouse, tmp_path: Path) -> None:
    """It would find no earlier record; the build says what to do instead."""
    work = shutil.copytree(fresh.path.parent, tmp_path / "work")
    with duckdb.connect(str(work / "warehouse.duckdb")) as connection:
        connection.execute("update staging.base_calls set key_number = -1 - key_number")
    _, run = dbt_build(work / "raw", work, options=OPTIONS, check=False, **VARIABLES)
    said = re.sub(r"\s+", " ", run.stdout)
    assert run.returncode != 0
    assert "was built by a version of DuckDB that hashes otherwise" in said
    assert "dbt build --full-refresh" in said


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        (
            "int_customer_lifetime",
            "alter tiles_built_in type bigint",
            "intermediate.int_customer_lifetime, column tiles_built_in: the model gives INTEGER now, the "
            "table holds BIGINT. Run 'dbt build --full-refresh'.",
        ),
        ("int_customer_lifetime", "add column more integer", 'Column "more" in EXCLUDE list not found'),
        (
            "int_customer_session_order",
            "drop column primary_tutor_rating",
            'does not have a column with name "primary_tutor_rating"',
        ),
    ],
)
def test_rows_go_into_the_columns_of_their_model_alone(
    fresh: Warehouse, tmp_path: Path, table: str, change: str, said: str
) -> None:
    """A night does not insert into a table that an earlier version of the model made with other columns."""
    work = shutil.copytree(fresh.path.parent, tmp_path / "work")
    with duckdb.connect(str(work / "warehouse.duckdb")) as connection:
        connection.execute(f"alter table intermediate.{table} {change}")
    warehouse, run = dbt_build(
        work / "raw",
        work,
        select=["+int_customer_session_order"],
        options=OPTIONS,
        check=False,
        **VARIABLES | {"as_of": AS_OF + DAY},
    )
    assert run.returncode != 0
    assert said in re.sub(r"\s+", " ", run.stdout)
    latest = warehouse.rows(f"select max(snapshot_date) as day from intermediate.{table}")
    assert latest == [{"day": AS_OF.date()}]
