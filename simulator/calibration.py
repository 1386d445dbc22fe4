"""Achieved beside reference: a compact approximation of the product's definitions, straight from the raw
files.

The warehouse has the definitions to the letter; here event times alone decide, the latest version of a row
is its truth, and rows that break the contract are left out. It is a mirror to calibrate in, good to a
percentage point.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from report import reference
from training.reference import REFERENCES

NOTHING = "-"


def _percent(*shares: float | None, digits: int = 0) -> str:
    return " / ".join(NOTHING if share is None else f"{100 * share:.{digits}f}" for share in shares) + " %"


def _by_segment(column: str, form: str, scale: int = 1) -> str:
    figure = next(each for each in reference.SEGMENT_FIGURES if each.column == column)
    text = " / ".join(form.format(scale * value) for value in figure.expected)
    return f"{text} %" if scale == 100 else text


def _expected(banded: reference.Banded) -> str:
    return _percent(*(band.expected for band in banded.bands))


_CORRELATIONS = {(each.left, each.right): f"{each.expected:g}" for each in reference.CORRELATIONS}
_CHURN_AUC = REFERENCES["churn_risk_30d"]

REFERENCE: dict[str, str] = {
    **{
        f"segment {name.replace('_', ' ')}": _percent(share, digits=1)
        for name, share in reference.SEGMENT_SHARES.items()
    },
    "label churn 14 days": _percent(reference.LABELS["label_churn_risk_14d"], digits=1),
    "label churn 30 days": _percent(reference.LABELS["label_churn_risk_30d"], digits=1),
    "label health score": f"{reference.LABELS['label_health_score']:.1f}",
    "label sessions a week": f"{reference.LABELS['label_session_velocity']:.2f}",
    "first-session success": _percent(reference.LABELS["label_first_session_success"], digits=1),
    "churn 30 d at 0 / 1 / 2+ calls": _expected(reference.INBOUND_CALLS),
    "churn 30 d by segment": _by_segment("label_churn_risk_30d", "{:.0f}", 100),
    "sessions a week by segment": _by_segment("session_frequency_30d", "{:.2f}"),
    "average rating by segment": _by_segment("avg_rating_30d", "{:.2f}"),
    "calls in 14 days by segment": _by_segment("ib_call_count_14d", "{:.0f}"),
    "days since last by segment": _by_segment("days_since_last_session", "{:.0f}"),
    "payment success by segment": _by_segment("payment_success_rate_30d", "{:.1f}", 100),
    "tutor consistency by segment": _by_segment("tutor_consistency_score", "{:.1f}", 100),
    "health score by segment": _by_segment("label_health_score", "{:.0f}"),
    "first session by tutor rating": _expected(reference.FIRST_SESSION),
    "r calls, churn 30 d": _CORRELATIONS["ib_call_count_14d", "label_churn_risk_30d"],
    "r frequency 7 d, health score": _CORRELATIONS["session_frequency_7d", "label_health_score"],
    "r days since last, churn 30 d": _CORRELATIONS["days_since_last_session", "label_churn_risk_30d"],
    "r consistency, average rating": _CORRELATIONS["tutor_consistency_score", "avg_rating_30d"],
    "AUC of the truth, 14 d / 30 d": f"models: {_CHURN_AUC.low:.2f} to {_CHURN_AUC.high:.2f}",
    "AUC of the truth, not yet lapsed": NOTHING,
    "true risk, mean 14 d / 30 d": "as the labels",
    "customers in scope": NOTHING,
}
"""The figures of report/reference.py by the name of the row (segments: thriving / healthy / at risk /
churned).
"""

_SETUP = """
create temp table session as
select customer_id, tutor_id, status, resolved_at as happened, rating, rated_at,
    row_number() over (partition by customer_id order by resolved_at) as n
from (
    select session_id,
        arg_max(struct_pack(customer_id, tutor_id, status, resolved_at, rating, rated_at), loaded_at) as s
    from read_parquet('{dir}/raw_sessions/*.parquet')
    where session_id is not null and session_id < 'S999' and customer_id < 'C98'
    group by session_id
) as versions, lateral (select unnest(s))
where status = 'completed';
create temp table person as
select customer_id, min(signed_up_at) as signed_up_at
from read_parquet('{dir}/raw_customers/*.parquet') where customer_id < 'C98' group by 1;
create temp table call as
select distinct customer_id, call_id, called_at as happened from read_parquet('{dir}/raw_calls/*.parquet')
where direction = 'inbound' and call_id < 'K999' and customer_id < 'C98';
create temp table payment as
select customer_id, p.happened as happened, p.status as status from (
    select payment_id, customer_id, arg_max(struct_pack(happened := attempted_at, status), loaded_at) as p
    from read_parquet('{dir}/raw_payments/*.parquet')
    where payment_id < 'P999' and customer_id < 'C98' group by all
) where p.status in ('succeeded', 'failed');
create temp table login as
select customer_id, date_trunc('day', occurred_at) as happened
from read_parquet('{dir}/raw_app_events/*.parquet')
where event_id < 'E999' and customer_id < 'C98' and occurred_at is not null group by all;
create temp table tutor_rating as
select tutor_id, avg(rating) as rating from session where rating is not null group by 1;
"""

_SNAPSHOT = """
with moment as (select unnest([{mondays}]) as d),
around as (
    select d, customer_id,
        count(*) filter (happened >= d - interval 7 day and happened < d) as n7,
        count(*) filter (happened >= d - interval 30 day and happened < d) as n30,
        count(*) filter (happened >= d and happened < d + interval 28 day) as n28_next,
        count(*) filter (happened >= d and happened < d + interval 30 day) as n30_next,
        max(happened) filter (happened < d) as last_before,
        max(happened) filter (happened < d + interval 14 day) as last14,
        min(happened) filter (happened >= d + interval 14 day) as next14,
        max(happened) filter (happened < d + interval 30 day) as last30,
        min(happened) filter (happened >= d + interval 30 day) as next30,
        avg(rating) filter (rated_at >= d - interval 30 day and rated_at < d) as rating30,
        avg(rating) filter (rated_at < d) as rating_all,
        avg(rating) filter (rated_at >= d and rated_at < d + interval 30 day) as rating30_next
    from moment, session group by all
),
consistent as (
    select d, customer_id, max(k) / sum(k) as consistency, arg_max(tutor_id, k) as tutor_id from (
        select d, customer_id, tutor_id, count(*) as k from (
            select d, customer_id, tutor_id from moment, session where happened < d
            qualify row_number() over (partition by d, customer_id order by happened desc) <= 20
        ) group by all
    ) group by all
),
calls as (
    select d, customer_id, count(*) filter (happened >= d - interval 14 day and happened < d) as calls14,
        count(*) filter (happened >= d + interval 16 day and happened < d + interval 30 day) as calls14_next,
        max(happened) filter (happened < d) as last_call
    from moment, call group by all
),
payments as (
    select d, customer_id,
        avg((status = 'succeeded')::int)
            filter (happened >= d - interval 30 day and happened < d) as success30,
        avg((status = 'succeeded')::int) filter (happened < d) as success_all,
        avg((status = 'succeeded')::int)
            filter (happened >= d and happened < d + interval 30 day) as success30_next,
        max(happened) filter (happened < d) as last_payment
    from moment, payment group by all
),
logins as (
    select d, customer_id, max(happened) filter (happened < d) as last_login from moment, login group by all
),
joined as (
    select d, p.customer_id, coalesce(n7, 0) as n7, coalesce(n30, 0) as n30,
        coalesce(n28_next, 0) / 4.0 as velocity, coalesce(n30_next, 0) as n30_next,
        coalesce(rating30, rating_all, 4.0) as rating,
        coalesce(rating30_next, rating_all, 4.0) as rating_next,
        coalesce(consistency, 0) as consistency, coalesce(calls14, 0) as calls14,
        coalesce(calls14_next, 0) as calls14_next, coalesce(success30, success_all, 1) as success,
        coalesce(success30_next, success_all, 1) as success_next,
        coalesce(date_diff('second', last_before, d) // 86400, 999) as since,
        coalesce(date_diff('second', last30, d + interval 30 day) // 86400, 999) as since_next,
        (next14 is null or next14 - coalesce(last14, signed_up_at) > interval 30 day)::int as churn14,
        (next30 is null or next30 - coalesce(last30, signed_up_at) > interval 30 day)::int as churn30,
        t.true_churn_risk_14d as risk14, t.true_churn_risk_30d as risk30
    from moment cross join person as p
    left join around using (d, customer_id) left join consistent using (d, customer_id)
    left join calls using (d, customer_id) left join payments using (d, customer_id)
    left join logins using (d, customer_id)
    left join read_parquet('{dir}/truth/*.parquet') as t
        on t.customer_id = p.customer_id and t.week_start = d::date
    where p.signed_up_at < d and greatest(p.signed_up_at, coalesce(last_before, p.signed_up_at),
        coalesce(last_login, p.signed_up_at), coalesce(last_call, p.signed_up_at),
        coalesce(last_payment, p.signed_up_at)) >= d - interval 90 day
),
scored as (
    select *,
        35 * least(1, n30 * 7 / 30 / 2.0) + 20 * greatest(0, 1 - since / 30)
            + 15 * (rating - 1) / 4 + 10 * success
            + 10 * greatest(0, 1 - calls14 / 4) + 10 * consistency as index,
        35 * least(1, n30_next * 7 / 30 / 2.0) + 20 * greatest(0, 1 - since_next / 30)
            + 15 * (rating_next - 1) / 4
            + 10 * success_next + 10 * greatest(0, 1 - calls14_next / 4) + 10 * consistency as health
    from joined
)
select *, case when since >= 30 and since < 999 then 'churned' when index >= 80 then 'thriving'
    when index >= 60 then 'healthy' else 'at risk' end as segment
from scored
"""

_FIRST = """
select s.customer_id, s.rating >= 4 as success, t.rating as tutor_rating from session as s
left join tutor_rating as t using (tutor_id)
where s.n = 1 and s.rating is not null and s.rated_at < s.happened + interval 7 day
"""
_SEGMENTS = ("thriving", "healthy", "at risk", "churned")


@dataclass(frozen=True)
class Figures:
    """Achieved figures as text by the names of REFERENCE, and the Mondays they are averaged over."""

    values: dict[str, str]
    mondays: list[date]


def typical_mondays(start: date, end: date) -> list[date]:
    """Mondays of the school year in the last twelve months whose 30-day labels are mature (at least 60 days
    back).
    """
    last = end - timedelta(days=61)
    wanted = [
        date(year, month, 12) for year in range(start.year, end.year + 1) for month in (2, 3, 4, 10, 11)
    ]
    mondays = [day - timedelta(days=day.weekday()) for day in wanted]
    first = max(start + timedelta(days=120), end - timedelta(days=366))
    chosen = [day for day in mondays if first <= day <= last]
    return chosen or [last - timedelta(days=last.weekday())]


def achieved(directory: Path, start: date, end: date) -> Figures:
    """Measures the raw files below ``directory``; a figure without any observation reads "-"."""
    mondays = typical_mondays(start, end)
    place = str(directory).replace("'", "''")
    with duckdb.connect() as connection:
        connection.execute(_SETUP.format(dir=place))
        days = ", ".join(f"timestamp '{day}'" for day in mondays)
        connection.execute(f"create temp table snapshot as {_SNAPSHOT.format(dir=place, mondays=days)}")
        connection.execute(f"create temp table first_lesson as {_FIRST}")

        def one(query: str) -> tuple:
            return connection.execute(query).fetchall()[0]

        def number(value: float | None, digits: int = 1, percent: bool = False) -> str:
            if value is None:
                return NOTHING
            return f"{100 * value:.{digits}f} %" if percent else f"{value:.{digits}f}"

        def by_segment(expression: str, digits: int, percent: bool = False) -> str:
            parts = [
                one(f"select {expression} from snapshot where segment = '{name}'")[0] for name in _SEGMENTS
            ]
            text = " / ".join(
                NOTHING if v is None else f"{v * (100 if percent else 1):.{digits}f}" for v in parts
            )
            return text + (" %" if percent else "")

        values: dict[str, str] = {}
        for name in _SEGMENTS:
            values[f"segment {name}"] = number(
                one(f"select avg((segment = '{name}')::int) from snapshot")[0], 1, True
            )
        for name, expression, digits, percent in (
            ("label churn 14 days", "avg(churn14)", 1, True),
            ("label churn 30 days", "avg(churn30)", 1, True),
            ("label health score", "avg(health)", 1, False),
            ("label sessions a week", "avg(velocity)", 2, False),
            ("r calls, churn 30 d", "corr(calls14, churn30)", 2, False),
            ("r frequency 7 d, health score", "corr(n7, health)", 2, False),
            ("r days since last, churn 30 d", "corr(least(since, 90), churn30)", 2, False),
            ("r consistency, average rating", "corr(consistency, rating)", 2, False),
        ):
            values[name] = number(one(f"select {expression} from snapshot")[0], digits, percent)
        values["first-session success"] = number(
            one("select avg(success::int) from first_lesson")[0], 1, True
        )
        churn = [
            one(f"select avg(churn30) from snapshot where {condition}")[0]
            for condition in ("calls14 = 0", "calls14 = 1", "calls14 >= 2")
        ]
        values["churn 30 d at 0 / 1 / 2+ calls"] = " / ".join(number(v and 100 * v, 0) for v in churn) + " %"
        for name, expression, digits, percent in (
            ("churn 30 d by segment", "avg(churn30)", 0, True),
            ("sessions a week by segment", "avg(n30) * 7 / 30", 2, False),
            ("average rating by segment", "avg(rating)", 2, False),
            ("calls in 14 days by segment", "avg(calls14)", 1, False),
            ("days since last by segment", "avg(since) filter (since < 999)", 0, False),
            ("payment success by segment", "avg(success)", 1, True),
            ("tutor consistency by segment", "avg(consistency)", 1, True),
            ("health score by segment", "avg(health)", 0, False),
        ):
            values[name] = by_segment(expression, digits, percent)
        first = [
            one(f"select avg(success::int) from first_lesson where {condition}")[0]
            for condition in ("tutor_rating > 4.5", "tutor_rating between 4.0 and 4.5", "tutor_rating < 4.0")
        ]
        values["first session by tutor rating"] = " / ".join(number(v and 100 * v, 0) for v in first) + " %"
        values["AUC of the truth, 14 d / 30 d"] = " / ".join(
            number(_auc(one, f"risk{w}", f"churn{w}", "true"), 3) for w in (14, 30)
        )
        values["AUC of the truth, not yet lapsed"] = " / ".join(
            number(_auc(one, f"risk{w}", f"churn{w}", "since < 30"), 3) for w in (14, 30)
        )
        values["true risk, mean 14 d / 30 d"] = " / ".join(
            number(one(f"select avg(risk{w}) from snapshot")[0], 1, True) for w in (14, 30)
        )
        values["customers in scope"] = f"{one('select count(*) from snapshot')[0] / len(mondays):,.0f}"
    return Figures(values, mondays)


def _auc(one: object, score: str, label: str, where: str) -> float | None:
    """Area under the ROC curve by ranks (ties share their mean rank)."""
    return one(f"""
        with ranked as (
            select {label} as y,
                rank() over (order by {score}) + (count(*) over (partition by {score}) - 1) / 2.0 as r
            from snapshot where {where} and {score} is not null)
        select (sum(r) filter (y = 1) - sum(y) * (sum(y) + 1) / 2.0) / nullif(sum(y) * (count(*) - sum(y)), 0)
        from ranked""")[0]  # type: ignore[operator]


def print_report(directory: Path, start: date, end: date, rows: dict[str, int]) -> None:
    """Prints rows by table and every reference figure beside the achieved one."""
    console = Console()
    counts = Table(title="Rows written")
    counts.add_column("table")
    counts.add_column("rows", justify="right")
    for table, count in rows.items():
        counts.add_row(table, f"{count:,}")
    console.print(counts)
    figures = achieved(directory, start, end)
    shown = Table(
        title="Achieved beside reference, mean of the Mondays " + ", ".join(map(str, figures.mondays))
    )
    shown.add_column("figure")
    shown.add_column("achieved", justify="right")
    shown.add_column("reference", justify="right")
    for name, expected in REFERENCE.items():
        shown.add_row(name, figures.values.get(name, NOTHING), expected)
    console.print(shown)
