"""The simulated marketplace keeps the contract of the raw tables, is deterministic, and grows without
changing its past.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator.__main__ import main
from simulator.behaviour import Outlook
from simulator.config import Config, Marketplace
from simulator.delivery import REASONS
from simulator.simulation import simulate
from simulator.truth import true_risks
from simulator.writer import TABLES, DatasetWriter, arrow_schema, identifiers

START, END = date(2024, 7, 1), date(2025, 3, 1)
KEYS = {
    "raw_customers": "customer_id",
    "raw_tutors": "tutor_id",
    "raw_sessions": "session_id",
    "raw_calls": "call_id",
    "raw_payments": "payment_id",
    "raw_app_events": "event_id",
    "raw_tutor_availability": "tutor_id, subject, week_start",
}
TIMESTAMP = pa.timestamp("us")
CONTRACT = {
    "raw_customers": "customer_id:string signed_up_at:time subscription_tier:string "
    "acquisition_channel:string grade_level:string updated_at:time loaded_at:time",
    "raw_tutors": "tutor_id:string joined_at:time subjects:string updated_at:time loaded_at:time",
    "raw_sessions": "session_id:string customer_id:string tutor_id:string subject:string booked_at:time "
    "confirmed_at:time scheduled_at:time status:string resolved_at:time duration_minutes:int32 rating:int32 "
    "rated_at:time updated_at:time loaded_at:time",
    "raw_calls": "call_id:string customer_id:string called_at:time direction:string duration_seconds:int32 "
    "reason:string sentiment_score:double escalated:bool loaded_at:time",
    "raw_payments": "payment_id:string customer_id:string attempted_at:time amount:money currency:string "
    "status:string updated_at:time loaded_at:time",
    "raw_app_events": "event_id:string customer_id:string occurred_at:time event_type:string loaded_at:time",
    "raw_tutor_availability": "tutor_id:string subject:string week_start:date "
    "available_hours:double loaded_at:time",
}
TYPES = {
    "string": pa.string(),
    "time": TIMESTAMP,
    "int32": pa.int32(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "money": pa.decimal128(12, 2),
    "date": pa.date32(),
}


def run(directory: Path, end: date = END, customers: int = 250, seed: int = 7, **market: object) -> Path:
    """A small marketplace in small chunks, so that more than one chunk takes part."""
    simulate(
        Config(
            customers=customers,
            seed=seed,
            start=START,
            end=end,
            signup_days=364,
            chunk_customers=100,
            marketplace=Marketplace(**market),
        ),
        directory,
    )
    return directory


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("simulated") / "raw")


def query(raw: Path, text: str) -> list[tuple]:
    """Rows of a query in which {table} stands for the files of a table."""
    places = {table: f"read_parquet('{raw}/{table}/*.parquet')" for table in (*TABLES, "truth")}
    with duckdb.connect() as connection:
        return connection.execute(text.format(**places)).fetchall()


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*.parquet"))
    }


def test_the_same_arguments_give_byte_equal_files(raw: Path, tmp_path: Path) -> None:
    assert digests(run(tmp_path / "again")) == digests(raw)


def test_another_seed_gives_other_rows(raw: Path, tmp_path: Path) -> None:
    assert digests(run(tmp_path / "other", seed=8)) != digests(raw)


@pytest.mark.parametrize("days", [1, 5, 40])
def test_a_later_end_changes_nothing_that_had_landed(raw: Path, tmp_path: Path, days: int) -> None:
    later = run(tmp_path / "later", end=END + timedelta(days=days))
    cut = datetime(END.year, END.month, END.day, 6)
    for table in TABLES:
        difference = query(
            later,
            f"""select count(*) from (
                (select * from {{{table}}} where loaded_at < '{cut}' except all
                    select * from read_parquet('{raw}/{table}/*.parquet'))
                union all
                (select * from read_parquet('{raw}/{table}/*.parquet') except all
                    select * from {{{table}}} where loaded_at < '{cut}'))""",
        )
        assert difference == [(0,)], table


def test_a_later_end_adds_the_files_of_new_loads_and_changes_none(raw: Path, tmp_path: Path) -> None:
    """So that a marketplace simulated a day further is the same one, a night later."""
    before, after = digests(raw), digests(run(tmp_path / "later", end=END + timedelta(days=1)))
    # a load without rows of a table leaves no file, and the truth is no load
    known = {name: digest for name, digest in before.items() if not name.startswith("truth/")}
    assert known.items() <= after.items()
    added = {name for name in after.keys() - before.keys() if not name.startswith("truth/")}
    assert {Path(name).stem for name in added} == {str(END + timedelta(days=1))}


@pytest.mark.parametrize("table", TABLES)
def test_a_file_holds_what_one_nightly_load_brings(raw: Path, table: str) -> None:
    for path in sorted((raw / table).glob("*.parquet")):
        loaded_at = pq.read_table(path, columns=["loaded_at"])["loaded_at"].to_pylist()
        loads = {(moment - timedelta(hours=6)).date() + timedelta(days=1) for moment in loaded_at}
        assert loads == {date.fromisoformat(path.stem)}, path


@pytest.mark.parametrize("table", TABLES)
def test_columns_and_types_are_those_of_the_contract(raw: Path, table: str) -> None:
    expected = [(name, TYPES[kind]) for name, kind in (part.split(":") for part in CONTRACT[table].split())]
    files = sorted((raw / table).glob("*.parquet"))
    assert files
    for path in files:
        schema = pq.read_schema(path)
        assert [(f.name, f.type) for f in schema] == expected, path


@pytest.mark.parametrize("table", TABLES)
def test_a_version_lands_once_but_for_exact_repetitions(raw: Path, table: str) -> None:
    ambiguous = query(
        raw,
        f"""select count(*) from (
            select {KEYS[table]}, loaded_at from (select distinct * from {{{table}}})
            where {KEYS[table].split(",")[0]} is not null
            group by all having count(*) > 1)""",
    )
    assert ambiguous == [(0,)]


def test_some_deliveries_are_repeated(raw: Path) -> None:
    ((rows, distinct),) = query(
        raw,
        "select count(*), (select count(*) from (select distinct * from {raw_sessions})) from {raw_sessions}",
    )
    assert 0.002 < (rows - distinct) / rows < 0.01


@pytest.mark.parametrize("table", TABLES)
def test_each_table_lands_in_the_last_night_and_none_after_it(raw: Path, table: str) -> None:
    ((last,),) = query(raw, f"select max(loaded_at) from {{{table}}}")
    midnight = datetime(END.year, END.month, END.day)
    assert midnight <= last < midnight + timedelta(hours=6)


@pytest.mark.parametrize("nights", [1, 2, 3, 4])
def test_every_other_end_has_its_last_night_too(tmp_path: Path, nights: int) -> None:
    end = END + timedelta(days=nights)
    raw = run(tmp_path / "raw", end=end, customers=40)
    for table in TABLES:
        ((last,),) = query(raw, f"select max(loaded_at) from {{{table}}}")
        assert last.date() == end, table


def test_nothing_of_a_new_day_lands_in_its_night(raw: Path) -> None:
    for table, event in (
        ("raw_sessions", "updated_at"),
        ("raw_payments", "updated_at"),
        ("raw_calls", "called_at"),
        ("raw_app_events", "occurred_at"),
    ):
        rows = query(
            raw,
            f"""select count(*) from {{{table}}}
            where {event} <= loaded_at and {event}::date = loaded_at::date and hour(loaded_at) < 6
                and customer_id < 'C98'""",
        )
        assert rows == [(0,)], table


REJECTED = {
    "missing_key": "{key} is null or customer_id is null",
    "unknown_customer": """customer_id not in (
        select customer_id from {{raw_customers}} where customer_id is not null)""",
    "missing_timestamp": "{event} is null",
    "unknown_value": "{word} not in ({words})",
    "out_of_range": "{range}",
    "event_after_load": "{event} > loaded_at + interval 24 hour",
    "event_before_signup": """{event} < (select min(signed_up_at) from {{raw_customers}} as c
        where c.customer_id = r.customer_id) - interval 24 hour""",
}
TABLE_RULES = {
    "raw_customers": {
        "key": "customer_id",
        "event": "coalesce(updated_at, signed_up_at)",
        "word": "subscription_tier",
        "words": "'budget','standard','premium'",
    },
    "raw_sessions": {
        "key": "session_id",
        "event": "booked_at",
        "word": "status",
        "words": "'scheduled','completed','cancelled_by_customer','cancelled_by_tutor','no_show'",
        "range": "rating not between 1 and 5",
    },
    "raw_calls": {
        "key": "call_id",
        "event": "called_at",
        "word": "reason",
        "words": "'billing','scheduling','tutor_quality','technical','other'",
        "range": "sentiment_score not between -1 and 1",
    },
    "raw_payments": {
        "key": "payment_id",
        "event": "attempted_at",
        "word": "status",
        "words": "'succeeded','failed','refunded','pending'",
        "range": "amount < 0",
    },
    "raw_app_events": {
        "key": "event_id",
        "event": "occurred_at",
        "word": "event_type",
        "words": "'login','message_sent'",
    },
}


@pytest.mark.parametrize(
    ("table", "reason"), [(table, reason) for table in TABLE_RULES for reason in REASONS[table]]
)
def test_each_way_to_break_the_contract_occurs(raw: Path, table: str, reason: str) -> None:
    condition = REJECTED[reason].format(**TABLE_RULES[table])
    if (table, reason) == ("raw_customers", "missing_timestamp"):
        condition = "signed_up_at is null"
    if (table, reason) == ("raw_customers", "event_before_signup"):
        condition = "updated_at < signed_up_at - interval 24 hour"
    ((count,),) = query(raw, f"select count(*) from {{{table}}} as r where {condition}".replace("{{", "{"))
    assert count >= 1


def test_tutor_tables_break_the_contract_too(raw: Path) -> None:
    assert query(raw, "select count(*) > 0 from {raw_tutors} where tutor_id is null") == [(True,)]
    assert query(raw, "select count(*) > 0 from {raw_tutors} where subjects like '%astrology%'") == [(True,)]
    assert query(raw, "select count(*) > 0 from {raw_tutor_availability} where tutor_id is null") == [(True,)]
    assert query(raw, "select count(*) > 0 from {raw_tutor_availability} where available_hours < 0") == [
        (True,)
    ]


@pytest.mark.parametrize("table", TABLES)
def test_broken_rows_are_well_under_one_in_a_hundred(raw: Path, table: str) -> None:
    key = KEYS[table].split(",")[0]
    letter, places = ("T", "99") if key == "tutor_id" else (key[0].upper(), "999")
    letter = {"call_id": "K"}.get(key, letter)
    ((share,),) = query(
        raw, f"select avg(({key} is null or starts_with({key}, '{letter}{places}'))::int) from {{{table}}}"
    )
    assert 0 < share < 0.01


def test_versions_follow_the_life_of_a_lesson(raw: Path) -> None:
    rows = query(
        raw,
        """with version as (
            select *, lag(updated_at) over key as before, lag(status) over key as status_before
            from (select distinct * from {raw_sessions} where session_id < 'S999')
            window key as (partition by session_id order by loaded_at))
        select
            count(*) filter (updated_at < before),
            count(*) filter (status = 'scheduled' and status_before <> 'scheduled'),
            count(*) filter (status <> 'scheduled' and resolved_at is null),
            count(*) filter (status <> 'completed' and (duration_minutes is not null or rating is not null)),
            count(*) filter (status_before = 'completed' and status = 'no_show') > 0
        from version""",
    )
    assert rows == [(0, 0, 0, 0, True)]


def test_one_to_two_in_a_hundred_rows_are_days_late(raw: Path) -> None:
    ((share,),) = query(
        raw,
        """select avg((landed - occurred_at > interval 24 hour)::int) from (
            select min(loaded_at) as landed, min(occurred_at) as occurred_at from {raw_app_events}
            where event_id < 'E999' group by event_id)""",
    )
    assert 0.01 <= share <= 0.02


def test_weekly_lessons_vary_less_than_poisson(raw: Path) -> None:
    ((ratio,),) = query(
        raw,
        """with lesson as (
            select session_id, any_value(customer_id) as customer_id, any_value(scheduled_at) as held_at
            from {raw_sessions}
            where status = 'completed' and session_id < 'S999'
                and scheduled_at >= '2024-10-07' and scheduled_at < '2024-11-18' group by 1),
        weekly as (
            select people.customer_id, w, count(held_at) as n
            from (select distinct customer_id from lesson) as people cross join range(6) as weeks(w)
            left join lesson on lesson.customer_id = people.customer_id
                and date_diff('day', timestamp '2024-10-07', held_at) // 7 = w
            group by all)
        select avg(spread) from (
            select var_samp(n) / avg(n) as spread from weekly group by customer_id having avg(n) > 0)""",
    )
    assert ratio < 0.85


FIRST_BROKEN = {
    "raw_customers": "C98",
    "raw_sessions": "S999",
    "raw_calls": "K999",
    "raw_payments": "P999",
}
"""Keys from these on belong to rows that break the contract."""

# Customers by whether a snapshot sees them: some event of theirs in the 90 days before it, known by then.
# Snapshots are Mondays from 120 days after the first signup on.
UNSEEN = """
    with person as (
        select customer_id, min(signed_up_at) as signed_up_at, min(loaded_at) as loaded_at
        from {raw_customers} where customer_id < 'C98' group by all
    ),
    event as (
        select customer_id, signed_up_at as happened, loaded_at from person
        union all select customer_id, occurred_at, loaded_at from {raw_app_events} where event_id < 'E999'
        union all select customer_id, attempted_at, loaded_at from {raw_payments}
            where payment_id < 'P999' and status in ('succeeded', 'failed')
        union all select customer_id, called_at, loaded_at from {raw_calls}
            where call_id < 'K999' and direction = 'inbound'
        union all select customer_id, resolved_at, loaded_at from {raw_sessions}
            where session_id < 'S999' and status = 'completed'
    ),
    snapshot as (
        select day from (select unnest(generate_series(timestamp '2024-07-01', timestamp '2025-02-24',
            interval 7 day)) as day)
        where day >= (select min(signed_up_at) from person) + interval 120 day
        union all select timestamp '2025-03-01'
    )
    select customer_id from person
    where customer_id not in (
        select customer_id from event join snapshot
            on happened >= day - interval 90 day and happened < day and loaded_at - interval 6 hour < day
    )
"""


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_every_customer_is_seen_at_some_snapshot(tmp_path: Path, seed: int) -> None:
    raw = run(tmp_path / "raw", customers=500, seed=seed)
    assert query(raw, UNSEEN) == []
    # Without the lasting terms, customers of the first weeks leave before anything is computed about them.
    without = run(tmp_path / "without", customers=500, seed=seed, provisional_days=0)
    assert len(query(without, UNSEEN)) >= 2


def test_agreeing_to_terms_is_a_login_and_changes_nothing_else(tmp_path: Path) -> None:
    raw, without = run(tmp_path / "raw"), run(tmp_path / "without", provisional_days=0)
    for table in FIRST_BROKEN:
        genuine = f"{KEYS[table]} < '{FIRST_BROKEN[table]}' and customer_id < 'C98'"
        one, other = (
            query(place, f"select distinct * from {{{table}}} where {genuine} order by all")
            for place in (raw, without)
        )
        assert one == other, table
    logins, early, first, last = query(
        raw,
        f"""
        with event as (
            select distinct customer_id, occurred_at, event_type from {{raw_app_events}}
            where event_id < 'E999'
            except select customer_id, occurred_at, event_type
                from read_parquet('{without}/raw_app_events/*.parquet')
        ),
        person as (
            select customer_id, min(signed_up_at) as signed_up_at from {{raw_customers}}
            where customer_id < 'C98' group by all
        ),
        opened as (select date_trunc('day', min(signed_up_at)) as day from person)
        select
            (select count(distinct customer_id) from event where event_type = 'login'),
            (select count(*) from person, opened where signed_up_at < day + interval 42 day),
            (select min(occurred_at - day) from event, opened),
            (select max(occurred_at - day) from event, opened)
        """,
    )[0]
    assert logins == early > 40
    assert timedelta(days=42) <= first and last < timedelta(days=73)


def test_truth_has_a_row_a_customer_a_week_and_probabilities(raw: Path) -> None:
    ((rows, keys, low, high, mondays),) = query(
        raw,
        """select count(*), count(distinct (customer_id, week_start)), min(lapse_hazard),
            max(true_churn_risk_30d),
            bool_and(dayofweek(week_start) = 1) from {truth}""",
    )
    assert rows == keys > 1000
    assert low >= 0
    assert high <= 1
    assert mondays
    states = query(raw, "select distinct latent_state from {truth} order by 1")
    assert states == [("at_risk",), ("healthy",), ("lapsed",), ("thriving",)]


def test_a_long_lapse_is_certain_to_be_one() -> None:
    n = 4
    outlook = Outlook(
        state=np.arange(n, dtype=np.int8),
        trouble=np.zeros(n),
        fragility=np.ones(n),
        weeks_lapsed=np.full(n, 10),
        goal_near=np.zeros(n, dtype=bool),
        goal_is_exam=np.zeros(n, dtype=bool),
        subject=np.zeros(n, dtype=np.int8),
        lessons_wished=np.full(n, 2),
        waiting=np.zeros(n, dtype=bool),
    )
    _, risk_14, risk_30 = true_risks(
        Config(),
        outlook,
        date(2025, 10, 6),
        np.full(n, 3.0),
        np.zeros(n),
        np.ones(n),
        np.full(n, -1),
        np.full((n, 4), 0.9),
    )
    assert (np.diff(risk_30) > 0).all()  # thriving < healthy < at risk < lapsed
    assert risk_14[0] < 0.05
    _, away_14, _ = true_risks(
        Config(),
        outlook,
        date(2025, 10, 6),
        np.full(n, 3.0),
        np.full(n, 9),
        np.zeros(n),
        np.full(n, -1),
        np.zeros((n, 4)),
    )
    assert away_14 == pytest.approx(np.ones(n))  # nine weeks away hold a gap of four


def test_identifiers_are_written_without_loss() -> None:
    values = identifiers("C", 7, np.array([1, -1, 1_234_567]))
    assert values.to_pylist() == ["C0000001", None, "C1234567"]


def test_a_crashed_run_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def crash(_: str) -> None:
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        simulate(Config(customers=20, start=START, end=END), tmp_path / "raw", progress=crash)
    assert list(tmp_path.iterdir()) == []


def test_a_filled_directory_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        DatasetWriter(tmp_path, overwrite=False)
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        DatasetWriter(tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_leaves_the_new_run_alone(tmp_path: Path) -> None:
    for seed in (1, 2):
        simulate(
            Config(customers=20, seed=seed, start=START, end=date(2024, 9, 1)),
            tmp_path / "raw",
            overwrite=True,
        )
    simulate(Config(customers=20, seed=2, start=START, end=date(2024, 9, 1)), tmp_path / "fresh")
    assert digests(tmp_path / "raw") == digests(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--customers", "0"], "--customers"),
        (["--start", "2025-01-01", "--end", "2024-01-01"], "must come after"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_bad_arguments_give_one_clear_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "raw"), "--quiet"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message
    assert not (tmp_path / "raw").exists()


def test_a_day_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--end", "yesterday"])
    assert stop.value.code == 2
    assert "is not a day" in capsys.readouterr().err


def test_the_command_reports_achieved_beside_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "raw"
    assert (
        main(
            [
                "--customers",
                "120",
                "--end",
                "2025-03-01",
                "--signup-days",
                "364",
                "--out",
                str(out),
                "--quiet",
            ]
        )
        == 0
    )
    assert "segment thriving" in capsys.readouterr().out


def test_schemas_are_complete() -> None:
    assert set(TABLES) == set(CONTRACT)
    assert arrow_schema(TABLES["raw_payments"]).field("amount").type == pa.decimal128(12, 2)
