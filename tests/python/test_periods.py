"""A split of one's own, for customers who come for a known period; and data without rated first sessions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_portable import DIALECTS
from test_scoring import feature_table, publish, random_features, small_release
from test_training import (
    AS_OF,
    CATEGORICAL,
    FIRST_MONDAY,
    SPEC,
    made_up_snapshots,
    retrieve_from,
    settings_in,
    warehouse_of,
)

from pipeline.summary import show_summary
from report.models import judge, judge_champion, stability_by_month
from scoring.functions import register, release_row
from scoring.portable import prediction_sql
from scoring.release import (
    MODEL_NAMES,
    OPTIONAL_MODELS,
    SPLIT_FILE,
    Release,
    ReleaseError,
    read_champion,
    set_champion,
    write_release,
)
from simulator.writer import NOTE
from training.dataset import plan, read_labelled_snapshots
from training.errors import TrainingError
from training.models import SPECS
from training.periods import CustomerPeriods, read_customer_periods, released_periods
from training.run import Outcome, train
from training.split import BLOCK_NAMES, CHOOSE, FIT, NOWHERE, REPORT, customer_hashes

HEADER = "customer_id,block,first_day,last_day"
TRAINED = tuple(name for name in MODEL_NAMES if name not in OPTIONAL_MODELS)
# Three school years of the made-up marketplace, a third of the customers each.
YEARS = {
    "fit": ("2024-05-06", "2025-01-20"),
    "choose": ("2025-01-27", "2025-06-30"),
    "report": ("2025-07-01", "2026-01-25"),
}


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    return made_up_snapshots()


@pytest.fixture(scope="module")
def file(columns: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = ["customer_id,block,first_day,last_day"]
    for number, customer in enumerate(np.unique(columns["customer_id"])):
        block = list(YEARS)[number % 3]
        lines.append(f"{customer},{block},{','.join(YEARS[block])}")
    path = tmp_path_factory.mktemp("split") / "split.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


# === The split ==============================================================================================

day = st.integers(0, 60).map(lambda number: date.fromordinal(date(2024, 1, 1).toordinal() + number))
entries = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.sampled_from(list(BLOCK_NAMES)), day, day), min_size=1
)
rows = st.lists(st.tuples(st.sampled_from("abcdefgh"), day), min_size=1, max_size=40)


@given(entries, rows, st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_a_row_is_in_its_customers_block_when_snapshot_and_label_lie_in_the_period(
    given_entries, asked, label
):
    ids = sorted(given_entries, key=lambda customer: customer_hashes([customer])[0])
    periods = CustomerPeriods(
        np.sort(customer_hashes(ids)),
        np.array([given_entries[customer][0] for customer in ids], dtype=np.int8),
        np.array([given_entries[customer][1] for customer in ids], dtype="datetime64[D]"),
        np.array([given_entries[customer][2] for customer in ids], dtype="datetime64[D]"),
    )
    got = periods.assign(
        customer_hashes([customer for customer, _ in asked]),
        np.array([moment for _, moment in asked], dtype="datetime64[us]"),
        label,
    )
    for (customer, moment), block in zip(asked, got, strict=True):
        expected = NOWHERE
        if customer in given_entries:
            of, first, last = given_entries[customer]
            window = [date.fromordinal(moment.toordinal() + ahead) for ahead in (0, label)]
            if all(first <= each <= last for each in window):
                expected = of
        assert block == expected


def test_a_plan_follows_the_file(columns, file):
    periods = read_customer_periods(file)
    with warehouse_of(columns) as warehouse:
        labelled = read_labelled_snapshots(warehouse, SPECS, AS_OF)
    for name in TRAINED:
        spec = SPEC[name]
        found = plan(labelled, spec, periods)
        days = labelled.snapshots[found.rows].astype("datetime64[D]")
        for code, block in BLOCK_NAMES.items():
            chosen = found.block == code
            first, last = (np.datetime64(each) for each in YEARS[block])
            assert chosen.any()
            assert days[chosen].min() >= first
            assert days[chosen].max() + spec.label_days <= last
            assert getattr(found.blocks, block).first == days[chosen].min()
            assert getattr(found.blocks, block).last == days[chosen].max()
        assert found.blocks.trained_until <= found.blocks.report.first
        customers = {
            code: set(labelled.customer_ids[found.rows][found.block == code])
            for code in (FIT, CHOOSE, REPORT)
        }
        assert len(set.union(*customers.values())) == sum(map(len, customers.values()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("customer_id,block,first_day\na,fit,2024-01-01", "has no column last_day"),
        (
            f"{HEADER}\na,train,2024-01-01,2024-02-01",
            "line 2, column block: 'train'",
        ),
        (
            f"{HEADER}\na,fit,2024-01-01,soon",
            "line 2, column last_day: 'soon' is not",
        ),
        (f"{HEADER}\na,fit,,2024-01-01", "column first_day: '' is not a date"),
        (f"{HEADER}\na,fit,2024-01-01", "column last_day: None is not a date"),
        (
            f"{HEADER}\na,fit,2024-01-01,2024-02-01\na,choose,2024-03-01,2024-04-01",
            "line 3, has customer_id a again",
        ),
        (
            f"{HEADER}\na,fit,2024-01-01,2024-02-01",
            "no customer in the block choose",
        ),
        (
            f"{HEADER}\na,fit,2024-01-01,2024-03-02\nb,choose,2024-03-01,2024-04-01\n"
            "c,report,2024-05-01,2024-06-01",
            "block choose begin on 2024-03-01, before the block fit has ended on 2024-03-02",
        ),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message) as error:
        read_customer_periods(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"The split .*none\.csv cannot be read"):
        read_customer_periods(tmp_path / "none.csv")


# === A marketplace in which no first session is rated =======================================================


def without_first_sessions(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return columns | {"label_first_session_success": np.full(len(columns["customer_id"]), np.nan)}


@pytest.fixture(scope="module")
def trained(columns, file, tmp_path_factory) -> tuple[Path, Outcome]:
    directory = tmp_path_factory.mktemp("trained")
    with warehouse_of(without_first_sessions(columns)) as warehouse:
        outcome = train(
            warehouse,
            retrieve_from(warehouse),
            CATEGORICAL,
            settings_in(directory, periods=read_customer_periods(file)),
            lambda message: None,
        )
    return directory, outcome


def test_the_other_models_are_trained_and_published(trained):
    directory, outcome = trained
    champion = read_champion(directory / "models")
    assert tuple(champion.models) == TRAINED
    decision = champion.decision["models"]["first_session_success"]
    assert decision["reason"].startswith("not trained: first_session_success has nothing to learn from")
    assert outcome.decisions["first_session_success"].described == decision["reason"]
    assert champion.decision["summary"].endswith("; not trained first_session_success")
    row = release_row(directory / "models", "v1", "v1")
    assert row["first_session_success_auc"] is None
    assert row["churn_risk_30d_auc"] > 0.6
    blocks = json.loads(row["held_out"])["churn_risk_30d"]["blocks"]
    assert blocks["report"]["first_snapshot"] == "2025-07-07"


def test_the_split_lies_with_the_release_and_gives_the_same_rows(columns, file, trained, tmp_path):
    directory, _ = trained
    models_dir = tmp_path / "models"
    shutil.copytree(directory / "models", models_dir)
    champion = read_champion(models_dir)
    published = models_dir / "releases" / "v1" / SPLIT_FILE
    # No customer by name: a release never changes, and a customer may ask to be forgotten.
    assert published.read_text().startswith("customer_hash,block,first_day,last_day\n")
    assert not any(customer in published.read_text() for customer in np.unique(columns["customer_id"]))
    given_file, found = read_customer_periods(file), released_periods(champion, models_dir)
    with warehouse_of(columns) as warehouse:
        labelled = read_labelled_snapshots(warehouse, SPECS, AS_OF)
    for name in TRAINED:
        expected, again = (plan(labelled, SPEC[name], each) for each in (given_file, found))
        assert np.array_equal(again.rows, expected.rows)
        assert np.array_equal(again.block, expected.block)
        assert again.blocks == expected.blocks
    published.write_text(published.read_text().replace(",report,", ",fit,", 1))
    with pytest.raises(ReleaseError, match=r"split\.csv is not the one that was released"):
        released_periods(champion, models_dir)
    published.unlink()
    with pytest.raises(ReleaseError, match=r"split\.csv, by which the release was trained, cannot be read"):
        released_periods(champion, models_dir)
    assert read_champion(models_dir) == champion, "scoring needs no split"
    assert released_periods(small_release(), models_dir) is None


def test_a_release_is_not_written_with_another_split(tmp_path, trained):
    _, outcome = trained
    for files in ({}, {SPLIT_FILE: "another"}):
        with pytest.raises(ValueError, match="names another"):
            write_release(outcome.release, tmp_path, files)
    assert not list(tmp_path.iterdir())


def test_released_figures_come_out_again_by_the_split(columns, trained):
    directory, outcome = trained
    with warehouse_of(without_first_sessions(columns)) as warehouse:
        judged = judge_champion(warehouse, directory / "models", directory)
        unsplit = judge(warehouse, outcome.release, directory)
        months = stability_by_month(judged)
    assert set(judged.models) == set(TRAINED)
    for held_out in judged.models.values():
        assert held_out.differing == ()
        assert held_out.verified > 5
    # And the comparison sees a split that is not the release's.
    assert any(held_out.differing for held_out in unsplit.models.values())
    assert {month.note for month in months} <= {"all", "in part"}
    assert sum(month.rows for month in months) == len(judged.models["churn_risk_30d"].examples)


def test_after_such_a_training_one_without_is_refused_where_the_champion_knows_too_much(
    columns, trained, tmp_path
):
    directory, _ = trained
    shutil.copytree(directory / "models", tmp_path / "models")
    release = read_champion(tmp_path / "models")
    assert release.split_sha256 is not None
    with (
        warehouse_of(columns) as warehouse,
        pytest.raises(TrainingError, match="The champion v9 has learned from data until 2025-12-01"),
    ):
        split = (tmp_path / "models" / "releases" / "v1" / SPLIT_FILE).read_text()
        later = replace(release, model_version="v9", trained_until=datetime(2025, 12, 1))
        write_release(later, tmp_path / "models", {SPLIT_FILE: split})
        set_champion(tmp_path / "models", "v9")
        train(warehouse, retrieve_from(warehouse), CATEGORICAL, settings_in(tmp_path), lambda message: None)


def test_a_model_that_must_be_there_still_stops_the_training(columns, file, tmp_path):
    calm = columns | {"label_churn_risk_30d": np.full(len(columns["customer_id"]), np.nan)}
    with (
        warehouse_of(calm) as warehouse,
        pytest.raises(TrainingError, match="churn_risk_30d has nothing to learn"),
    ):
        train(
            warehouse,
            retrieve_from(warehouse),
            CATEGORICAL,
            settings_in(tmp_path, periods=read_customer_periods(file)),
            lambda message: None,
        )
    assert read_champion(tmp_path / "models") is None


def test_an_incumbent_is_carried_over_and_a_report_block_that_it_knows_refused(columns, file, tmp_path):
    whole = small_release(trained_until=datetime(2025, 6, 30))
    publish(whole, tmp_path / "models")
    with warehouse_of(without_first_sessions(columns)) as warehouse:

        def train_again() -> Outcome:
            return train(
                warehouse,
                retrieve_from(warehouse),
                CATEGORICAL,
                settings_in(tmp_path, periods=read_customer_periods(file)),
                lambda message: None,
            )

        release = train_again().release
        assert tuple(release.models) == MODEL_NAMES
        assert release.models["first_session_success"] == whole.models["first_session_success"]
        assert release.decision["summary"].endswith("; carried over first_session_success")
        publish(
            replace(small_release("v3"), trained_until=datetime(2025, 7, 8)),
            tmp_path / "models",
        )
        with pytest.raises(
            TrainingError, match=r"The champion v3 has learned from data until 2025-07-08, and the"
        ):
            train_again()


def shortened(release: Release) -> Release:
    return replace(release, models={name: release.models[name] for name in TRAINED})


def test_without_the_model_its_prediction_is_null_and_the_others_are_as_before(tmp_path):
    whole = small_release()
    publish(shortened(whole), tmp_path / "short")
    publish(whole, tmp_path / "whole")
    answers = {}
    for name in ("short", "whole"):
        with duckdb.connect() as connection:
            register(connection, tmp_path / name)
            connection.register("features", feature_table(random_features(3_000, seed=3)))
            answers[name] = connection.execute(
                "select customer_id, unnest(predict_customer_health(f)) from features f order by customer_id"
            ).fetchall()
    assert [row[-1] for row in answers["short"]] == [None] * 3_000
    assert all(row[-1] is not None for row in answers["whole"])
    assert [row[:-1] for row in answers["short"]] == [row[:-1] for row in answers["whole"]]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_portable_sql_has_the_column_all_the_same(dialect):
    parsed = sqlglot.parse_one(prediction_sql(shortened(small_release()), dialect), read=dialect)
    assert tuple(parsed.named_selects[2:]) == MODEL_NAMES


def test_the_portable_sql_gives_null():
    with duckdb.connect() as connection:
        connection.register("data", feature_table(random_features(50, seed=3)))
        got = connection.execute(prediction_sql(shortened(small_release()), "duckdb", "data")).fetchall()
    assert all(row[-1] is None and None not in row[:-1] for row in got)


def test_other_models_may_not_be_missing():
    whole = small_release()
    with pytest.raises(ValueError, match="only first_session_success may be missing"):
        replace(whole, models={name: whole.models[name] for name in MODEL_NAMES if name != "health_score"})


# === The summary of a run on one's own data =================================================================


@pytest.mark.parametrize("simulated", [True, False])
def test_reference_figures_stand_beside_simulated_data_alone(
    simulated, columns, trained, tmp_path, monkeypatch
):
    directory, _ = trained
    warehouse = tmp_path / "warehouse.duckdb"
    held_out = release_row(directory / "models", "v1", "v1")["held_out"]
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            """
            create schema labels; create schema predictions; create schema features; create schema marts;
            create schema reference; create schema quarantine;
            create table labels.customer_labels as
                select 'a' as customer_id, timestamp '2026-01-05' as feature_timestamp, 'healthy' as segment,
                    0 as label_churn_risk_14d, 1 as label_churn_risk_30d, 50.0 as label_health_score,
                    1.0 as label_session_velocity, null::integer as label_first_session_success;
            create table features.customer_features as
                select 'a' as customer_id, timestamp '2026-01-05' as feature_timestamp;
            create table features.feature_catalog as select 1 as one;
            create table predictions.customer_predictions as from features.customer_features;
            create table quarantine.rejected_rows as select 1 as one;
            create table marts.customer_health_current as
                select 'healthy' as health_tier, 0.5 as churn_risk_30d;
            create table reference.health_tiers as
                select 'healthy' as tier, 'monitor' as action, 60 as min_score
            """
        )
        connection.execute(
            "create table predictions.model_versions as select true as is_champion, ? as held_out", [held_out]
        )
    monkeypatch.setenv("WAREHOUSE_PATH", str(warehouse))
    monkeypatch.setenv("RAW_DATA_DIR", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    if simulated:
        (tmp_path / "raw" / NOTE).write_text("{}")
    console = Console(width=120, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    show_summary(console)
    said = console.export_text()
    training_data = said[said.index("Training data") : said.index("Champion on held-out")]
    assert ("29.3 %" in training_data) == simulated
    champion = said[said.index("Champion on held-out") :]
    assert "churn_risk_30d" in champion
    assert ("0.85–0.92" in champion) == simulated
    assert "first_session_success" not in champion


def test_the_made_up_years_begin_where_the_marketplace_does():
    assert np.datetime64(YEARS["fit"][0]) == FIRST_MONDAY
