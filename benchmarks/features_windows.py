"""The ways to windowed sums that benchmarks/features.py compares, each run in a process of its own.

    python -m benchmarks.features_windows <way> <folder>

The task: for every row of customer_features (a customer in scope, a snapshot) the sums of 7, 14 and 30
days of SUMMED and the active days, from the facts that the snapshot sees. Each way writes the same Parquet
file, <way>.parquet. `models` starts from the view of facts over the staged versions, as dbt does. All others
start from the same facts as a Parquet file: what they would have to do with versions before is spared them,
and so are the facts that none of these columns counts.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from benchmarks.measure import Unavailable, connect, report

WINDOWS = (7, 14, 30)
SUMMED = (
    "completed_sessions",
    "resolved_sessions",
    "duration_minutes",
    "logins",
    "messages",
    "succeeded_payments",
    "failed_payments",
    "net_amount",
)
# What facts carry of these columns, and what is added up of tiles: active facts make a day active.
_CARRIED = (*SUMMED, "active_facts")
_ADDED_UP = (*SUMMED, "active_days")
COLUMNS = tuple(f"{name}_{days}d" for name in _ADDED_UP for days in WINDOWS)
WAREHOUSE = "warehouse.duckdb"
# The models that make windows, in their order; lifetime sums come with them, the other ways are spared these.
_MODELS = ("int_customer_day_tiles", "int_customer_lifetime")
# A part of the statement that makes customer_features, some snapshots at a time.
_SUMS = "int_customer_sums"
_FEATURES = "model.customer_health.customer_features"
_SNAPSHOTS = 'select snapshot_date from "warehouse"."intermediate"."int_snapshots"'


def prepare(folder: Path) -> float:
    """Write facts.parquet and spine.parquet from the warehouse in the folder; the seconds that facts took."""
    columns = ", ".join(f"{name}::double as {name}" if name == "net_amount" else name for name in SUMMED)
    something = " or ".join(f"{name} <> 0" for name in _CARRIED)
    with _warehouse(folder, "prepared") as connection:
        begin = time.perf_counter()
        connection.execute(
            f"""
            copy (
                select customer_id, event_at, visible_from, visible_until, active_facts, {columns}
                from warehouse.intermediate.int_customer_facts
                inner join warehouse.staging.base_customer_arrivals using (customer_key)
                where replaced_in is null and ({something})
            ) to '{folder}/facts.parquet'
            """
        )
        seconds = time.perf_counter() - begin
        connection.execute(
            f"""
            copy (
                select customer_id, feature_timestamp::date as snapshot_date
                from warehouse.features.customer_features
            ) to '{folder}/spine.parquet'
            """
        )
    return seconds


def checksum(folder: Path, way: str) -> tuple[int, int]:
    """Rows that a way wrote, and a sum over them that does not depend on their order."""
    values = ", ".join(f"round({name}, 2)::decimal(18, 2)" for name in COLUMNS)
    with connect(Path(":memory:")) as connection:
        answer = connection.execute(
            f"""
            select count(*), sum(hash(customer_id::varchar, snapshot_date::date, {values})::hugeint)
            from '{folder}/{way}.parquet'
            """
        ).fetchone()
    assert answer
    return answer


def models(folder: Path) -> Callable[[], None]:
    """Ours: the statements that dbt ran, with all their quantities and lifetime sums."""
    connection = _warehouse(folder, "models")
    connection.execute("create schema raw; create table raw.this_run as from warehouse.raw.this_run")
    connection.execute("create schema intermediate")
    paths = [*(f"target/run/**/{model}.sql" for model in _MODELS), f"target/compiled/**/{_SUMS}.sql"]
    # What the statements make here they also read here.
    made_here = re.compile(rf'"warehouse"\."intermediate"\."({"|".join(_MODELS)})"')
    *statements, sums = (
        made_here.sub(r'"intermediate"."\1"', path.read_text())
        for pattern in paths
        for path in folder.glob(pattern)
    )
    dates = [row[0] for row in connection.execute(f"{_SNAPSHOTS} order by snapshot_date").fetchall()]
    features = json.loads((folder / "target" / "manifest.json").read_text())["nodes"][_FEATURES]
    per_pass = features["config"]["meta"]["snapshots_per_pass"]
    passes = []
    for first in range(0, len(dates), per_pass):
        some = dates[first : first + per_pass]
        literals = " union all ".join(f"select date '{date}' as snapshot_date" for date in some)
        passes.append(sums.replace(_SNAPSHOTS, literals))

    def run() -> None:
        for table in (*_MODELS, _SUMS):
            connection.execute(f"drop table if exists intermediate.{table}")
        for statement in statements:
            connection.execute(statement)
        for number, rows in enumerate(passes):
            start = "insert into" if number else "create table"
            connection.execute(f"{start} intermediate.{_SUMS} {'' if number else 'as'} {rows}")
        _write(
            connection,
            folder,
            "models",
            f"select customer_id, snapshot_date, {', '.join(COLUMNS)} from intermediate.int_customer_sums",
        )

    return run


def tiles(folder: Path) -> Callable[[], None]:
    """Our method for these columns alone: tiles a customer, day and change, joined to the days of windows.

    As in the models: what cancels out leaves no tile, days with a single tile need no window function,
    windows are sums of disjoint stretches of days, and whole numbers are added up as doubles, which DuckDB
    keeps in half the memory.
    """
    changed = ", ".join(f"sum(sign * {name}::double) as {name}" for name in _CARRIED)
    stretches = {
        f"days_{after + 1}_to_{until}": (after, until)
        for after, until in zip((0, *WINDOWS), WINDOWS, strict=False)
    }
    sums = ", ".join(f"sum({name}::double) as {name}" for name in _ADDED_UP)
    joins = "".join(f" left join {stretch} using (customer_id, snapshot_date)" for stretch in stretches)
    windows = ", ".join(
        " + ".join(
            f"coalesce({stretch}.{name}, 0)" for stretch, (_, until) in stretches.items() if until <= days
        )
        + f" as {name}_{days}d"
        for name in _ADDED_UP
        for days in WINDOWS
    )
    return _in_sql(
        folder,
        "tiles",
        f"""
        -- A CTE a reading: DuckDB keeps the rows of one that is read twice.
        new_facts as (from '{folder}/facts.parquet'),

        replaced_facts as (from '{folder}/facts.parquet' where visible_until is not null),

        changes as (
            select *, 1 as sign, visible_from as changed_on from new_facts
            union all
            select *, -1 as sign, visible_until as changed_on from replaced_facts
        ),

        tiles as (
            select customer_id, event_at::date as event_date, changed_on, {changed}
            from changes
            group by customer_id, event_date, changed_on
        ),

        days_with_others as (
            select distinct customer_id, event_date from tiles where changed_on <> event_date + 1
        ),

        -- 1 where a tile makes its day an active one, -1 where it undoes that
        turns as (
            select
                *,
                (sum(active_facts) over so_far > 0)::integer
                - (sum(active_facts) over so_far - active_facts > 0)::integer as active_days
            from (from tiles semi join days_with_others using (customer_id, event_date))
            window so_far as (partition by customer_id, event_date order by changed_on)
            union all
            select *, (active_facts > 0)::integer as active_days
            from (from tiles anti join days_with_others using (customer_id, event_date))
        ),

        days as (
            select snapshot_date, age, (snapshot_date - age::integer)::date as event_date
            from dates cross join range(1, {max(WINDOWS)} + 1) as ages(age)
        ),

        {
            "".join(
                f'''
        {stretch} as (
            select customer_id, snapshot_date, {sums}
            from turns
            inner join days using (event_date)
            where changed_on <= snapshot_date and age > {after} and age <= {until}
            group by customer_id, snapshot_date
        ),
        '''
                for stretch, (after, until) in stretches.items()
            )
        }
        """,
        f"select customer_id, snapshot_date, {windows} from spine{joins}",
    )


def range_join(folder: Path) -> Callable[[], None]:
    """SQL: the facts joined to the snapshot dates that they are in a window of."""
    return _range_join(folder, "range_join", "dates", "true")


def spine_join(folder: Path) -> Callable[[], None]:
    """SQL: every row of customer and date joined to the facts of its windows."""
    return _range_join(folder, "spine_join", "spine", "spine.customer_id = facts.customer_id")


def _range_join(folder: Path, way: str, dates: str, same: str) -> Callable[[], None]:
    inside = {days: f"event_at >= {dates}.snapshot_date - interval {days} day" for days in WINDOWS}
    sums = ", ".join(
        [
            f"sum({name}) filter ({condition}) as {name}_{days}d"
            for name in SUMMED
            for days, condition in inside.items()
        ]
        + [
            f"count(distinct event_at::date) filter (active_facts > 0 and {condition}) as active_days_{days}d"
            for days, condition in inside.items()
        ]
    )
    defaults = ", ".join(f"coalesce(windows.{name}, 0) as {name}" for name in COLUMNS)
    return _in_sql(
        folder,
        way,
        f"""
        windows as (
            select
                facts.customer_id,
                {dates}.snapshot_date,
                {sums}
            from facts
            inner join {dates}
                on
                    {same}
                    and facts.{inside[max(WINDOWS)]}
                    and facts.visible_from <= {dates}.snapshot_date
                    and (facts.visible_until is null or facts.visible_until > {dates}.snapshot_date)
            group by facts.customer_id, {dates}.snapshot_date
        )
        """,
        f"""
        select customer_id, snapshot_date, {defaults}
        from spine
        left join windows using (customer_id, snapshot_date)
        """,
    )


def _in_sql(folder: Path, way: str, tables: str, select: str) -> Callable[[], None]:
    """A run of SQL from the files `facts` and `spine`; `tables` are further tables of a `with` clause."""
    connection = connect(Path(":memory:"))
    connection.execute(f"set temp_directory = '{folder}/spilled_by_{way}'")
    query = f"""
        with facts as (from '{folder}/facts.parquet'),

        spine as (from '{folder}/spine.parquet'),

        dates as (select distinct snapshot_date from spine),

        {tables.strip().removesuffix(",")}

        {select}
    """
    return lambda: _write(connection, folder, way, query)


def pandas(folder: Path) -> Callable[[], None]:
    """pandas: for each date the slice of the facts in its windows, grouped by customer."""
    import pandas as library
    from pyarrow import parquet

    def run() -> None:
        facts = parquet.read_table(folder / "facts.parquet", read_dictionary=["customer_id"]).to_pandas(
            date_as_object=False
        )
        facts = facts.sort_values("event_at", ignore_index=True)
        spine = library.read_parquet(folder / "spine.parquet")
        spine["snapshot_date"] = library.to_datetime(spine["snapshot_date"])
        parts = []
        for date, rows in spine.groupby("snapshot_date"):
            begin = facts["event_at"].searchsorted(date - library.Timedelta(days=max(WINDOWS)))
            end = facts["event_at"].searchsorted(date)
            seen = facts.iloc[begin:end]
            until = seen["visible_until"]
            seen = seen[(seen["visible_from"] <= date) & (until.isna() | (until > date))]
            part = rows.set_index("customer_id")
            for days in WINDOWS:
                inside = seen[seen["event_at"] >= date - library.Timedelta(days=days)]
                sums = inside.groupby("customer_id", observed=True)[list(SUMMED)].sum()
                active = inside.loc[inside["active_facts"] > 0, ["customer_id", "event_at"]]
                active = active.assign(event_at=active["event_at"].dt.normalize()).drop_duplicates()
                sums["active_days"] = active.groupby("customer_id", observed=True).size()
                sums.index = sums.index.astype(str)
                part = part.join(sums.add_suffix(f"_{days}d"))
            parts.append(part.fillna(0).reset_index())
        library.concat(parts)[["customer_id", "snapshot_date", *COLUMNS]].to_parquet(
            folder / "pandas.parquet"
        )

    return run


def polars(folder: Path) -> Callable[[], None]:
    """polars, lazily: for each date the facts in its windows, grouped by customer; all dates side by side."""
    try:
        import polars as library
    except ImportError:
        raise Unavailable("polars is not installed") from None
    from datetime import timedelta

    column = library.col

    def run() -> None:
        facts = library.scan_parquet(folder / "facts.parquet")
        spine = library.read_parquet(folder / "spine.parquet")
        parts = []
        for date in spine["snapshot_date"].unique().sort():
            inside = {days: column("event_at") >= date - timedelta(days=days) for days in WINDOWS}
            seen = facts.filter(
                inside[max(WINDOWS)],
                column("visible_from") <= date,
                column("visible_until").is_null() | (column("visible_until") > date),
            )
            parts.append(
                seen.group_by("customer_id")
                .agg(
                    *(
                        column(name).filter(inside[days]).sum().alias(f"{name}_{days}d")
                        for name in SUMMED
                        for days in WINDOWS
                    ),
                    *(
                        column("event_at")
                        .dt.date()
                        .filter(inside[days] & (column("active_facts") > 0))
                        .n_unique()
                        .alias(f"active_days_{days}d")
                        for days in WINDOWS
                    ),
                )
                .with_columns(library.lit(date).alias("snapshot_date"))
            )
        windows = library.concat(library.collect_all(parts))
        (
            spine.join(windows, on=["customer_id", "snapshot_date"], how="left")
            .with_columns(column(name).fill_null(0) for name in COLUMNS)
            .select("customer_id", "snapshot_date", *COLUMNS)
            .write_parquet(folder / "polars.parquet")
        )

    return run


def _warehouse(folder: Path, name: str) -> duckdb.DuckDBPyConnection:
    """A database of its own for what a way makes, with the warehouse beside it."""
    database = folder / f"made_by_{name}.duckdb"
    database.unlink(missing_ok=True)
    connection = connect(database)
    connection.execute(f"attach '{folder / WAREHOUSE}' as warehouse (read_only)")
    return connection


def _write(connection: duckdb.DuckDBPyConnection, folder: Path, way: str, query: str) -> None:
    connection.execute(f"copy ({query}) to '{folder}/{way}.parquet'")


WAYS = {
    "models": models,
    "tiles": tiles,
    "range_join": range_join,
    "spine_join": spine_join,
    "polars": polars,
    "pandas": pandas,
}


def main(way: str, folder: str) -> None:
    """Measure one way and print the outcome."""
    report(lambda: WAYS[way](Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
