"""The mapping: the SQL of mapping/ run in DuckDB, its raw tables written as Parquet, one file a load date.

    python -m examples.oulad.raw_tables --data DIRECTORY --out RAW_DIRECTORY

writes the raw tables alone; `python -m examples.oulad` does that and all that follows.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.oulad.source import TABLES, OuladError, create_view, data_directory, in_one_line

MAPPING = Path(__file__).resolve().parent / "mapping"
# In the order in which they build on each other.
STEPS = ("registrations", "clicked_days", "assignments")
RAW_TABLES = tuple(sorted(file.stem for file in MAPPING.glob("raw_*.sql")))


def open_mapping(data: Path, students: int | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with the relations of mapping/: the steps, the raw tables, subjects and periods.

    `students`: only so many of the customers, always the same ones, evenly over the presentations. Raises
    OuladError when the data set cannot be read or no presentation is complete.
    """
    connection = duckdb.connect()
    connection.execute((MAPPING / "macros.sql").read_text())
    for name, table in TABLES.items():
        create_view(connection, name, table, data)
    try:
        _create(connection, "table", "presentations")
        # By a hash, so that the choice hangs on nothing but the customer.
        connection.execute(
            """
            create table sampled_customers as
            select distinct
                id_student || '-' || code_presentation as customer_id,
                md5(id_student || '-' || code_presentation) as place
            from student_registration inner join presentations using (code_module, code_presentation)
            order by place limit $limit
            """,
            {"limit": students},
        )
        for name in STEPS:
            _create(connection, "table", name)
        for name in ("customer_periods", "subjects", *RAW_TABLES):
            _create(connection, "view", name)
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise OuladError(f"The data set in {data} cannot be mapped: {in_one_line(error)}.") from error
    if not connection.execute("select count(*) from sampled_customers").fetchall()[0][0]:
        raise OuladError(f"{data} holds no presentation whose clicks reach to its end.")
    return connection


def write_raw_tables(
    connection: duckdb.DuckDBPyConnection, out: Path, until: date | None = None
) -> dict[str, int]:
    """Write `<out>/<table>/<load date>.parquet`, the whole directory or nothing; returns rows by table.

    `until`: only what has landed by then, the loads of the night to that day included. Equal data give equal
    bytes.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        rows = {name: _write(connection, name, draft / name, until) for name in RAW_TABLES}
        shutil.rmtree(out, ignore_errors=True)
        draft.chmod(0o755)
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return rows


def _create(connection: duckdb.DuckDBPyConnection, kind: str, name: str) -> None:
    connection.execute(f"create {kind} {name} as {(MAPPING / f'{name}.sql').read_text()}")


def _write(connection: duckdb.DuckDBPyConnection, name: str, folder: Path, until: date | None) -> int:
    folder.mkdir()
    table = connection.sql(
        f"select * from {name} where cast(loaded_at as date) <= coalesce($until, cast(loaded_at as date))",
        params={"until": until},
    )
    table = table.to_arrow_table().combine_chunks()
    columns = ["loaded_at", *(column for column in table.column_names if column != "loaded_at")]
    table = table.sort_by([(column, "ascending") for column in columns])
    if not table.num_rows:
        pq.write_table(table, folder / "no-rows.parquet")
        return 0
    days = pc.strftime(table["loaded_at"], format="%Y-%m-%d").combine_chunks()
    runs = pc.run_end_encode(days)
    first = 0
    for day, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        pq.write_table(table.slice(first, end - first), folder / f"{day}.parquet", compression="zstd")
        first = end
    return table.num_rows


def main(arguments: list[str] | None = None) -> int:
    """Write the raw tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.oulad.raw_tables", description=__doc__)
    parser.add_argument("--data", type=Path, help="directory of the data set")
    parser.add_argument("--out", type=Path, required=True, help="the raw directory to write")
    parser.add_argument("--students", type=int, help="only so many customers (default: all)")
    options = parser.parse_args(arguments)
    try:
        with open_mapping(data_directory(options.data), options.students) as connection:
            for name, rows in write_raw_tables(connection, options.out).items():
                print(f"{name:<24}{rows:>10,}")
    except OuladError as error:
        print(f"oulad: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
