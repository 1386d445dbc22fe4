"""Figures of a warehouse, as plain data: rows are dicts by the names of the queries' columns.

`open_warehouse` opens it for reading and adds one temporary table, `report_rows`: the labelled snapshots that
the figures are about.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from report import reference

Row = dict[str, Any]


class ReportError(Exception):
    """The report cannot be made; the message is one sentence that says why and what to do."""


# A whole year, so that every season counts once, and no snapshot whose labels are still open. The reference
# describes customers of a running marketplace, not of its first months.
REPORT_PERIOD = """
    select
        max(feature_timestamp) as last_snapshot
      , max(feature_timestamp) - interval 364 days as after
    from labels.customer_labels
    where label_churn_risk_30d is not null and isodow(feature_timestamp) = 1
"""
REPORT_ROWS = f"""
    select labels.*, features.* exclude (customer_id, feature_timestamp)
    from labels.customer_labels as labels
    inner join features.customer_features as features using (customer_id, feature_timestamp)
    cross join ({REPORT_PERIOD}) as period
    where
        isodow(labels.feature_timestamp) = 1
        and labels.feature_timestamp > period.after
        and labels.feature_timestamp <= period.last_snapshot
"""


def open_warehouse(path: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection with the temporary table `report_rows`.

    Raises ReportError when there is no warehouse, or none that was built whole.
    """
    if not path.exists():
        raise ReportError(f"There is no warehouse at {path}: run `make run` or `dbt build` first.")
    try:
        warehouse = duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        raise ReportError(f"The warehouse {path} cannot be opened: {str(error).splitlines()[0]}") from error
    try:
        warehouse.execute("set TimeZone = 'UTC'")
        warehouse.execute(f"create temporary table report_rows as {REPORT_ROWS}")
    except duckdb.Error as error:
        warehouse.close()
        raise ReportError(
            f"The warehouse {path} is not built: run `make run` or `dbt build` first "
            f"({str(error).splitlines()[0]})."
        ) from error
    return warehouse


def rows(warehouse: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object] = ()) -> list[Row]:
    """The rows of a query as dicts."""
    result = warehouse.execute(query, list(parameters))
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def one(warehouse: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object] = ()) -> Row:
    """The only row of a query."""
    return rows(warehouse, query, parameters)[0]


def has(warehouse: duckdb.DuckDBPyConnection, relation: str) -> bool:
    """Whether `schema.table` is there and holds a row."""
    try:
        return bool(warehouse.execute(f"select 1 from {relation} limit 1").fetchall())
    except duckdb.CatalogException:
        return False


def period(warehouse: duckdb.DuckDBPyConnection) -> Row:
    """What the figures are about: rows, customers, snapshots, first and last snapshot."""
    return one(
        warehouse,
        """
        select
            count(*) as rows
          , count(distinct customer_id) as customers
          , count(distinct feature_timestamp) as snapshots
          , min(feature_timestamp)::date as first_snapshot
          , max(feature_timestamp)::date as last_snapshot
        from report_rows
        """,
    )


def history(warehouse: duckdb.DuckDBPyConnection) -> Row:
    """All snapshots of the warehouse: rows, customers, first and last snapshot."""
    return one(
        warehouse,
        """
        select
            count(*) as rows
          , count(distinct customer_id) as customers
          , min(feature_timestamp)::date as first_snapshot
          , max(feature_timestamp)::date as last_snapshot
        from features.customer_features
        """,
    )


@dataclass(frozen=True)
class RawTable:
    """A raw table: its files with their bytes (None: no such directory), and what was read from them."""

    name: str
    files: int | None
    size: int | None
    accepted: int | None
    rejected: int | None


def raw_tables(warehouse: duckdb.DuckDBPyConnection, raw_dir: Path) -> list[RawTable]:
    """The raw tables of the contract, in the order of their names."""
    judged = {
        row["source_table"]: row for row in rows(warehouse, "select * from quarantine.rejection_summary")
    }
    tables = []
    for name in sorted(judged):
        sizes = _file_sizes(raw_dir / name)
        tables.append(
            RawTable(
                name,
                None if sizes is None else len(sizes),
                None if sizes is None else sum(sizes),
                judged[name]["accepted_versions"],
                judged[name]["rejected_versions"],
            )
        )
    return tables


def _file_sizes(directory: Path) -> list[int] | None:
    if not directory.is_dir():
        return None
    return [
        (Path(place) / name).stat().st_size
        for place, _, names in os.walk(directory)
        for name in names
        if not name.startswith((".", "_"))
    ]


def segment_mix(warehouse: duckdb.DuckDBPyConnection) -> dict[str, float | None]:
    """{segment: its share of the rows}, 0 for a segment without rows; None without any rows."""
    counted = dict(warehouse.execute("select segment, count(*) from report_rows group by segment").fetchall())
    total = sum(counted.values())
    return {name: counted.get(name, 0) / total if total else None for name in reference.SEGMENTS}


def label_statistics(warehouse: duckdb.DuckDBPyConnection, where: str = "true") -> dict[str, Row]:
    """{label: mean, standard deviation, least, greatest, rows}, over the rows that have the label."""
    return {
        label: one(
            warehouse,
            f"""
            select
                avg({label}) as mean
              , stddev_samp({label}) as deviation
              , min({label}) as least
              , max({label}) as greatest
              , count({label}) as rows
            from report_rows
            where {where}
            """,
        )
        for label in reference.LABELS
    }


def segment_comparison(warehouse: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Row]]:
    """{column of SEGMENT_FIGURES: {segment: mean and median}}, over rows of customers who had a session.

    Before the first session several of these columns are placeholders.
    """
    columns = [figure.column for figure in reference.SEGMENT_FIGURES]
    selected = ", ".join(f"avg({name}) as mean_{name}, median({name}) as median_{name}" for name in columns)
    found = {
        row["segment"]: row
        for row in rows(
            warehouse,
            f"select segment, {selected} from report_rows where total_sessions_lifetime > 0 group by segment",
        )
    }
    return {
        name: {
            segment: {
                "mean": found.get(segment, {}).get(f"mean_{name}"),
                "median": found.get(segment, {}).get(f"median_{name}"),
            }
            for segment in reference.SEGMENTS
        }
        for name in columns
    }


def share_by_band(
    warehouse: duckdb.DuckDBPyConnection, banded: reference.Banded, among: str = "true"
) -> list[Row]:
    """Title, rows and share of each band, then of the rows elsewhere, among the rows that meet a condition.

    The share of a band without rows is None.
    """
    groups = [(band.title, f"{banded.feature} {band.condition} and {banded.where}") for band in banded.bands]
    if banded.elsewhere:
        groups.append((banded.elsewhere, f"not ({banded.where})"))
    return [
        {
            "title": title,
            **one(
                warehouse,
                f"""
                select count({banded.label}) as rows, avg({banded.label}) as share
                from report_rows
                where ({condition}) and ({among})
                """,
            ),
        }
        for title, condition in groups
    ]


def correlation(
    warehouse: duckdb.DuckDBPyConnection, left: str, right: str, where: str = "true"
) -> float | None:
    """Pearson's r over the rows that have both; None where it is undefined."""
    # corr() of a column that never changes is NaN, or an error in some versions.
    found = one(
        warehouse,
        f"""
        select
            case
                when stddev_pop({left}) > 0 and stddev_pop({right}) > 0 then corr({left}, {right})
            end as r
        from report_rows
        where {where} and {left} is not null and {right} is not null
        """,
    )
    return found["r"]


def weekly_activity(warehouse: duckdb.DuckDBPyConnection) -> list[Row]:
    """Sessions requested and completed in each whole week, over all subjects; 0 in a week without any."""
    return rows(
        warehouse,
        """
        with found as (
            select * from marts.market_supply_demand
            where week_start + 7 <= (select max(feature_timestamp) from features.customer_features)
        ),

        weeks as (
            select cast(unnest(generate_series(min(week_start), max(week_start), interval 7 days)) as date)
                as week_start
            from found
        )

        select
            weeks.week_start
          , coalesce(sum(found.sessions_requested), 0) as requested
          , coalesce(sum(found.sessions_completed), 0) as completed
        from weeks
        left join found using (week_start)
        group by weeks.week_start
        order by weeks.week_start
        """,
    )


def supply_and_demand(warehouse: duckdb.DuckDBPyConnection) -> list[Row]:
    """Hours offered, sessions requested and completed, utilisation by subject, over the last twelve weeks."""
    return rows(
        warehouse,
        """
        select
            subject
          , sum(available_hours) as available_hours
          , sum(sessions_requested) as requested
          , sum(sessions_completed) as completed
          , sum(completed_hours) / nullif(sum(available_hours), 0) as utilisation
        from marts.market_supply_demand
        where
            week_start >= (select max(feature_timestamp) - interval 84 days from features.customer_features)
        group by subject
        having sum(sessions_requested) > 0
        order by utilisation desc nulls last, subject
        """,
    )


COHORT_MONTHS = (1, 3, 6, 12)


def cohorts(warehouse: duckdb.DuckDBPyConnection) -> list[Row]:
    """Customers by quarter of signup, and the share active 1, 3, 6 and 12 months later.

    A share covers the signup months that have got so far; None when none has.
    """
    shares = ", ".join(
        f"""
            sum(active_customers) filter (months_since_signup = {month})
            / nullif(sum(customers) filter (months_since_signup = {month}), 0) as month_{month}
        """
        for month in COHORT_MONTHS
    )
    return rows(
        warehouse,
        f"""
        select
            date_trunc('quarter', signup_month)::date as quarter
          , sum(customers) filter (months_since_signup = 0) as customers
          , {shares}
        from marts.cohort_retention
        group by quarter
        order by quarter
        """,
    )


@dataclass(frozen=True)
class Example:
    """One customer at one snapshot, in full."""

    customer_id: str
    snapshot: datetime
    features: Row
    labels: Row
    prediction: Row | None
    """A row of predictions.customer_predictions; None when that snapshot was not scored."""


_TYPICAL_BY = tuple(figure.column for figure in reference.SEGMENT_FIGURES)


def example(warehouse: duckdb.DuckDBPyConnection, segment: str, names: Sequence[str]) -> Example | None:
    """The most typical customer of a segment at the last snapshot with all labels; None without any.

    Most typical: least sum of distances from the segment's medians, each in units of the column's standard
    deviation over all rows, of the columns of the segment comparison; ties go to the least customer_id.
    `names` are the features to return.
    """
    distance = " + ".join(
        f"coalesce(abs(ours.{column} - typical.{column}) / nullif(spread.{column}, 0), 0)"
        for column in _TYPICAL_BY
    )
    medians = ", ".join(f"median({column}) as {column}" for column in _TYPICAL_BY)
    deviations = ", ".join(f"stddev_pop({column}) as {column}" for column in _TYPICAL_BY)
    found = rows(
        warehouse,
        f"""
        with ours as (
            select * from report_rows
            where
                segment = $1
                and total_sessions_lifetime > 0
                and feature_timestamp = (select max(feature_timestamp) from report_rows)
        ),

        typical as (
            select {medians} from ours
        ),

        spread as (
            select {deviations} from report_rows where total_sessions_lifetime > 0
        )

        select ours.*
        from ours
        cross join typical
        cross join spread
        order by {distance}, ours.customer_id
        limit 1
        """,
        [segment],
    )
    if not found:
        return None
    (row,) = found
    predicted = []
    if has(warehouse, "predictions.customer_predictions"):
        predicted = rows(
            warehouse,
            """
            select predictions.*
            from predictions.customer_predictions as predictions
            inner join predictions.model_versions as versions using (model_version)
            where
                predictions.customer_id = $1
                and predictions.feature_timestamp = $2
            order by versions.is_champion desc, versions.trained_at desc
            limit 1
            """,
            [row["customer_id"], row["feature_timestamp"]],
        )
    return Example(
        customer_id=row["customer_id"],
        snapshot=row["feature_timestamp"],
        features={name: row[name] for name in names},
        labels={name: row[name] for name in (*reference.LABELS, "health_index", "segment")},
        prediction=predicted[0] if predicted else None,
    )


def code_names(warehouse: duckdb.DuckDBPyConnection) -> dict[str, dict[int, str]]:
    """{categorical feature: {code: name}}, from the seeds."""
    names: dict[str, dict[int, str]] = {}
    for feature, code, name in warehouse.execute(
        """
        select attribute, code, value from reference.profile_codes
        union all
        select 'primary_subject', code, subject from reference.subjects
        """
    ).fetchall():
        names.setdefault(feature, {})[code] = name
    return names


def public_tables(warehouse: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    """The tables that the report reads, with their rows; those that are not there are left out."""
    counted = []
    for relation in (
        "features.customer_features",
        "labels.customer_labels",
        "predictions.customer_predictions",
        "marts.customer_health_current",
        "quarantine.rejected_rows",
    ):
        try:
            counted.append((relation, one(warehouse, f"select count(*) as rows from {relation}")["rows"]))
        except duckdb.CatalogException:
            continue
    return counted
