"""The size of the warehouse's row groups (feature_repo/row_groups.py)."""

from pathlib import Path

import duckdb
import pytest

import scoring
from feature_repo.row_groups import ROW_GROUP_SIZE, set_row_group_size

# A name that is no identifier of SQL.
NAME = "the customers' ware-house"
ROWS = 3 * ROW_GROUP_SIZE + 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a table of several row groups of ours, and a view that names the database."""
    path = tmp_path / f"{NAME}.duckdb"
    with duckdb.connect(str(path)) as connection:
        set_row_group_size(connection)
        connection.execute(f"create table numbers as select range as number from range({ROWS})")
        connection.execute(f'create view seen as select * from "{NAME}".numbers')
    return path


def row_groups(connection: duckdb.DuckDBPyConnection) -> list[int]:
    return [
        rows
        for (rows,) in connection.execute(
            """
            select sum(count) from pragma_storage_info('numbers')
            where column_name = 'number' and segment_type <> 'VALIDITY'
            group by row_group_id order by row_group_id
            """
        ).fetchall()
    ]


def test_tables_are_written_in_row_groups_of_our_size(path: Path) -> None:
    with duckdb.connect(str(path), read_only=True) as connection:
        assert row_groups(connection) == [ROW_GROUP_SIZE] * 3 + [5]


def test_a_connection_and_its_cursors_see_the_same_database_as_before(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        place = "select current_database(), current_setting('temp_directory')"
        before = connection.execute(place).fetchall()
        for _ in range(2):  # the second time there is nothing to do
            set_row_group_size(connection)
            for each in (connection, connection.cursor(), duckdb.connect(str(path))):
                assert each.execute(place).fetchall() == before
                assert each.execute("select count(*) from seen").fetchall() == [(ROWS,)]
        databases = connection.execute("select database_name from duckdb_databases() where not internal")
        assert databases.fetchall() == [(NAME,)]


def test_whoever_writes_through_scoring_leaves_the_row_groups(path: Path) -> None:
    with scoring.connect(path, read_only=False) as connection:
        connection.execute("delete from numbers where number < 10")
        connection.execute("force checkpoint")
    with duckdb.connect(str(path), read_only=True) as connection:
        assert len(row_groups(connection)) == 4


def test_a_database_in_memory_stays_as_it_is() -> None:
    with duckdb.connect() as connection:
        connection.execute("create table numbers as select 1 as number")
        set_row_group_size(connection)
        assert connection.execute("select * from numbers").fetchall() == [(1,)]
