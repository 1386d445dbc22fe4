"""Training: split, leak, fit, calibration, figures, releases, registry, and who becomes champion.

The marketplace here is a small made-up one with the real columns (from the feature catalog): enough signal
for models to find, no meaning beyond that. The last test goes through Feast itself.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from feature_repo import files
from feature_repo.catalog import WIDE_RELATION, load_catalog
from scoring.release import (
    MODEL_NAMES,
    Calibration,
    Release,
    ReleasedModel,
    ReleaseError,
    in_order,
    list_releases,
    read_champion,
    read_release,
    set_champion,
    write_release,
)
from training import registry
from training.baselines import guess
from training.calibration import fit_calibration
from training.dataset import (
    Examples,
    plan,
    read_labelled_snapshots,
    read_truth,
    retrieve_examples,
    retrieve_features,
)
from training.decision import becomes_champion, decide
from training.errors import TrainingError
from training.fit import learn
from training.metrics import amount_figures, calibration_error, not_worse, probability_figures
from training.models import SPECS, Baseline
from training.reference import REFERENCES
from training.run import Settings, train
from training.split import (
    CHOOSE,
    FIT,
    NOWHERE,
    REPORT,
    assign,
    customer_groups,
    customer_hashes,
    split_time,
    thin,
)

CATALOG = load_catalog()
CATEGORICAL = [feature.name for feature in CATALOG.features if feature.categorical]
SPEC = {spec.name: spec for spec in SPECS}
FIRST_MONDAY = np.datetime64("2024-05-06", "D")
WEEKS = 90
AS_OF = datetime(2026, 1, 26)
CUSTOMERS = 320


# ----------------------------------------------------------------------------------------------------------
# A made-up marketplace
# ----------------------------------------------------------------------------------------------------------


def made_up_snapshots(seed: int = 7) -> dict[str, np.ndarray]:
    """Columns of features and labels, one row a customer a Monday, sorted by Monday and customer."""
    random = np.random.default_rng(seed)
    activity = random.gamma(2.0, 0.6, CUSTOMERS)
    tutor = random.uniform(3.0, 5.0, CUSTOMERS)
    mood = np.cumsum(random.normal(0, 0.25, (WEEKS, CUSTOMERS)), axis=0)
    mood -= mood.mean(axis=0)
    rate = (activity * np.exp(0.5 * mood)).ravel()
    rows = WEEKS * CUSTOMERS
    # A customer signs up in some week; in that week and the next three there was no session yet.
    signup = random.integers(-20, WEEKS, CUSTOMERS)
    week = np.repeat(np.arange(WEEKS), CUSTOMERS)
    age = week - np.tile(signup, WEEKS)
    new = (age >= 0) & (age < 4)
    columns: dict[str, np.ndarray] = {
        "customer_id": np.array([f"c{number:04d}" for number in range(CUSTOMERS)])[
            np.tile(np.arange(CUSTOMERS), WEEKS)
        ],
        "feature_timestamp": (FIRST_MONDAY + 7 * week).astype("datetime64[us]"),
    }
    for feature in CATALOG.features:
        if feature.categorical:
            columns[feature.name] = random.integers(-1, 4, rows).astype(np.int32)
        elif feature.data_type == "integer":
            columns[feature.name] = random.poisson(rate).astype(np.int32)
        else:
            columns[feature.name] = np.round(rate * random.uniform(0.5, 1.5, rows), 4)
    columns["session_frequency_30d"] = random.poisson(rate * 4) / 4
    columns["days_since_last_session"] = np.minimum(random.exponential(7 / (rate + 0.05)), 120).astype(
        np.int32
    )
    columns["primary_tutor_rating"] = np.tile(tutor, WEEKS) + random.normal(0, 0.1, rows)
    columns["total_sessions_lifetime"] = np.where(new, 0, 1 + np.maximum(age, 0)).astype(np.int32)
    columns["days_since_last_session"] = np.where(new, 999, columns["days_since_last_session"]).astype(
        np.int32
    )

    lapse_30d = random.random(rows) < 1 / (1 + np.exp(4.0 * (rate - 0.8)))
    lapse_14d = lapse_30d & (random.random(rows) < 0.6)
    columns["label_churn_risk_14d"] = lapse_14d.astype(float)
    columns["label_churn_risk_30d"] = lapse_30d.astype(float)
    columns["label_session_velocity"] = random.poisson(rate * 4) / 4
    columns["label_health_score"] = np.clip(40 * np.minimum(rate, 2) + random.normal(0, 8, rows) + 10, 0, 100)
    success = random.random(rows) < 1 / (1 + np.exp(-3.0 * (np.tile(tutor, WEEKS) - 3.8)))
    columns["label_first_session_success"] = np.where(new, success.astype(float), np.nan)
    columns["health_index"] = np.clip(40 * np.minimum(columns["session_frequency_30d"], 2) + 15, 0, 100)
    return {name: values[age >= 0] for name, values in columns.items()}


def warehouse_of(columns: dict[str, np.ndarray]) -> duckdb.DuckDBPyConnection:
    """An in-memory warehouse with the two tables that training reads."""
    connection = duckdb.connect()
    connection.execute("create schema features; create schema labels")
    keys = {name: columns[name] for name in ("customer_id", "feature_timestamp")}
    for table, names in (
        ("features.customer_features", CATALOG.names),
        ("labels.customer_labels", [*(spec.label for spec in SPECS), "health_index"]),
    ):
        content = pa.table({**keys, **{name: pa.array(columns[name], from_pandas=True) for name in names}})
        connection.register("content", content)
        connection.execute(f"create table {table} as select * from content")
        connection.unregister("content")
    return connection


def retrieve_from(warehouse: duckdb.DuckDBPyConnection):
    """Feast's place taken by a join: row i for row i, the features of a service by their names."""

    def retrieve(entity_rows: pa.Table, service: str) -> pa.Table:
        names = ", ".join(f"f.{name}" for name in CATALOG.service(service))
        warehouse.register(
            "asked", entity_rows.append_column("row", pa.array(np.arange(entity_rows.num_rows)))
        )
        found = warehouse.sql(
            f"select {names} from asked left join features.customer_features f"
            " on f.customer_id = asked.customer_id and f.feature_timestamp = event_timestamp order by row"
        )
        return found.to_arrow_table()

    return retrieve


def examples_of(columns: dict[str, np.ndarray], *names: str) -> dict[str, Examples]:
    with warehouse_of(columns) as warehouse:
        labelled = read_labelled_snapshots(warehouse, SPECS, AS_OF)
        plans = [plan(labelled, SPEC[name]) for name in names]
        return retrieve_examples(labelled, plans, retrieve_from(warehouse))


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    return made_up_snapshots()


@pytest.fixture(scope="module")
def examples(columns) -> dict[str, Examples]:
    return examples_of(columns, *MODEL_NAMES)


@pytest.fixture(scope="module")
def learned(examples):
    # One thread here and below: the machine that runs the tests may be busy.
    return {name: learn(SPEC[name], examples[name], CATEGORICAL, 1, "v1", threads=1) for name in MODEL_NAMES}


@pytest.fixture(scope="module")
def released(learned) -> Release:
    moment = datetime(2026, 1, 26, 1, 2, 3)
    models = {
        name: replace(learned[name].model, held_out={"everyone": {"auc": 0.1 + 0.2}}) for name in MODEL_NAMES
    }
    return Release("v1", moment, AS_OF, datetime(2025, 11, 1), 4711, models, {"champion": True})


# ----------------------------------------------------------------------------------------------------------
# Split
# ----------------------------------------------------------------------------------------------------------

days = st.integers(0, 6000).map(lambda number: np.datetime64("2020-01-01", "D") + number)


@given(days, st.integers(0, 1500), st.integers(1, 90), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=300, deadline=None)
def test_blocks_follow_each_other_and_no_label_window_crosses(
    first, length, label_days, choose_weeks, report_weeks
):
    data_end = first + length
    try:
        blocks = split_time(first, data_end, label_days, choose_weeks, report_weeks)
    except TrainingError:
        # Only ever for want of history: what is asked for fits into this many days.
        needed = 3 * label_days + 7 * (choose_weeks + report_weeks + 8) + 3 * 7
        assert length < needed
        return
    horizon = np.timedelta64(label_days, "D")
    assert first <= blocks.fit.first < blocks.fit.last
    assert blocks.fit.last + horizon <= blocks.choose.first <= blocks.choose.last
    assert blocks.choose.last + horizon <= blocks.report.first <= blocks.report.last
    assert blocks.report.last + horizon <= data_end
    assert blocks.trained_until <= blocks.report.first
    for block, weeks in ((blocks.choose, choose_weeks), (blocks.report, report_weeks)):
        assert (block.last - block.first).astype(int) == 7 * (weeks - 1)
    for block in (blocks.fit, blocks.choose, blocks.report):
        for day in (block.first, block.last):
            assert day.astype(datetime).weekday() == 0
    # The report block is the latest possible one.
    assert blocks.report.last + 7 + horizon > data_end


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=60, unique=True), st.integers(30, 200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_customer_is_in_two_blocks(customers, weeks):
    blocks = split_time(FIRST_MONDAY, FIRST_MONDAY + 7 * 120, 30, 8, 8)
    hashes = np.tile(customer_hashes(customers), weeks)
    snapshots = np.repeat(FIRST_MONDAY + 7 * np.arange(weeks), len(customers))
    assigned = assign(hashes, snapshots, blocks)
    members = {code: set(hashes[assigned == code]) for code in (FIT, CHOOSE, REPORT)}
    assert not members[FIT] & members[CHOOSE]
    assert not members[FIT] & members[REPORT]
    assert not members[CHOOSE] & members[REPORT]
    for code, block in ((FIT, blocks.fit), (CHOOSE, blocks.choose), (REPORT, blocks.report)):
        inside = snapshots[assigned == code]
        assert ((inside >= block.first) & (inside <= block.last)).all()


def test_a_customer_keeps_its_group_for_ever_and_groups_have_their_shares():
    # Fixed values: were the hash to change, customers once trained on would enter the held-out group.
    assert customer_hashes(["c0001", "CUST-42"]).tolist() == [4413838809125259517, 2941423742408269580]
    groups = customer_groups(customer_hashes(f"customer {number}" for number in range(20_000)))
    assert np.mean(groups == REPORT) == pytest.approx(0.20, abs=0.01)
    assert np.mean(groups == CHOOSE) == pytest.approx(0.15, abs=0.01)
    assert np.mean(groups == FIT) == pytest.approx(0.65, abs=0.01)


def test_thinning_leaves_the_later_blocks_whole_and_every_week_represented():
    hashes = np.tile(customer_hashes(map(str, range(400))), 40)
    snapshots = np.repeat(FIRST_MONDAY + 7 * np.arange(40), 400)
    assigned = np.where(np.arange(len(hashes)) % 10 == 0, REPORT, FIT).astype(np.int8)
    thinned = thin(assigned, hashes, snapshots, most=4_000)
    assert 3_000 < (thinned == FIT).sum() <= 4_400
    assert ((thinned == REPORT) == (assigned == REPORT)).all()
    assert len(np.unique(snapshots[thinned == FIT])) == 40
    assert set(np.unique(thinned)) == {NOWHERE, FIT, REPORT}
    assert thin(assigned, hashes, snapshots, most=10**6) is assigned


def test_too_short_a_history_says_how_much_is_needed():
    with pytest.raises(TrainingError, match=r"needs \d+ days of snapshots .* there are 200"):
        split_time(FIRST_MONDAY, FIRST_MONDAY + 200, 60, 8, 8)
    needed = int(
        str(_error_of(lambda: split_time(FIRST_MONDAY, FIRST_MONDAY + 200, 60, 8, 8)))
        .split("needs ")[1]
        .split()[0]
    )
    split_time(FIRST_MONDAY, FIRST_MONDAY + needed, 60, 8, 8)
    with pytest.raises(TrainingError):
        split_time(FIRST_MONDAY, FIRST_MONDAY + needed - 7, 60, 8, 8)


def _error_of(action) -> Exception:
    with pytest.raises(TrainingError) as caught:
        action()
    return caught.value


# ----------------------------------------------------------------------------------------------------------
# Data set
# ----------------------------------------------------------------------------------------------------------


def test_only_labels_mature_at_the_training_date_are_seen(columns):
    as_of = datetime(2025, 12, 1)
    with warehouse_of(columns) as warehouse:
        labelled = read_labelled_snapshots(warehouse, SPECS, as_of)
    assert labelled.snapshots.max() < np.datetime64(as_of)
    for spec in SPECS:
        known = ~np.isnan(labelled.values[spec.label])
        last = labelled.snapshots[known].max().astype("datetime64[D]")
        assert last + np.timedelta64(spec.label_days, "D") <= np.datetime64(as_of, "D")
        assert last + np.timedelta64(spec.label_days + 7, "D") > np.datetime64(as_of, "D")


def test_only_mondays_are_used(columns):
    shifted = {name: values.copy() for name, values in columns.items()}
    sunday = np.arange(len(shifted["customer_id"])) % 3 == 0
    shifted["feature_timestamp"][sunday] -= np.timedelta64(1, "D")
    with warehouse_of(shifted) as warehouse:
        labelled = read_labelled_snapshots(warehouse, SPECS, AS_OF)
    mondays = np.unique(
        columns["feature_timestamp"][~sunday & (columns["feature_timestamp"] < np.datetime64(AS_OF))]
    )
    assert set(np.unique(labelled.snapshots)) == set(mondays)
    assert len(labelled) < len(sunday) * 0.7


def test_features_belong_to_their_row_whatever_the_services_share(columns, examples):
    for name, own in examples.items():
        assert own.columns == CATALOG.service(SPEC[name].feature_service)
        row = {
            (customer, moment): index
            for index, (customer, moment) in enumerate(
                zip(columns["customer_id"], columns["feature_timestamp"], strict=True)
            )
        }
        picked = np.array([row[key] for key in zip(own.customer_ids, own.snapshots, strict=True)])
        assert np.array_equal(own.labels, columns[SPEC[name].label][picked])
        for index, feature in enumerate(own.columns):
            assert np.array_equal(own.features[:, index], columns[feature][picked])


def test_the_first_session_model_sees_only_customers_before_their_first_session(columns):
    # A label where there should be none (a session took place already) must not bring the row in.
    wrong = {**columns, "label_first_session_success": np.ones(len(columns["customer_id"]))}
    wrong["label_first_session_success"][::3] = 0.0
    own = examples_of(wrong, "first_session_success")["first_session_success"]
    assert len(own) > 100
    assert (own.extra["total_sessions_lifetime"] == 0).all()


def test_the_first_session_model_sees_nothing_that_only_exists_after_a_session():
    seen = set(CATALOG.service("first_session_v1"))
    assert "first_session_was_success" not in seen
    for feature in CATALOG.features:
        if feature.family == "session" and feature.name in seen:
            # Of sessions only what may happen without one being completed.
            assert feature.name.startswith(("cancellation_rate", "no_show_rate"))
    assert not seen & {"tutor_consistency_score", "tutor_switch_count_30d", "total_sessions_lifetime"}


def test_lost_rows_and_missing_features_are_refused():
    customers = np.array(["a", "b"])
    moments = np.array(["2025-01-06", "2025-01-13"], dtype="datetime64[us]")

    def answer(*values):
        return lambda rows, service: pa.table({"x": list(values)})

    columns, features = retrieve_features(customers, moments, "churn_v1", answer(1, 2))
    assert columns == ("x",) and np.array_equal(features, [[1.0], [2.0]])
    with pytest.raises(TrainingError, match="1 rows of churn_v1 for 2"):
        retrieve_features(customers, moments, "churn_v1", answer(1.0))
    with pytest.raises(TrainingError, match="no x for 1 of 2"):
        retrieve_features(customers, moments, "churn_v1", answer(1.0, None))


def test_too_few_rows_or_outcomes_say_which(columns):
    def error_of(changed: dict[str, np.ndarray], name: str) -> str:
        with warehouse_of(changed) as warehouse:
            labelled = read_labelled_snapshots(warehouse, SPECS, AS_OF)
        return str(_error_of(lambda: plan(labelled, SPEC[name])))

    some = np.char.startswith(columns["customer_id"].astype(str), "c000")
    few = {name: values[some] for name, values in columns.items()}
    assert re.search(
        r"first_session_success has \d+ mature snapshots .* needs", error_of(few, "first_session_success")
    )
    rows = len(columns["customer_id"])
    calm = {**columns, "label_churn_risk_14d": np.zeros(rows)}
    assert "churn_risk_14d has 0 mature snapshots of the rarer outcome" in error_of(calm, "churn_risk_14d")
    # Enough of both outcomes, but not among those not yet lapsed, by whom the model is chosen.
    lapsed = columns["days_since_last_session"] >= 30
    certain = {**columns, "label_churn_risk_30d": lapsed.astype(float)}
    assert "churn_risk_30d has 0 mature snapshots of the rarer outcome" in error_of(certain, "churn_risk_30d")
    everyone = {**certain, "days_since_last_session": np.zeros(rows, dtype=np.int32)}
    with warehouse_of(everyone) as warehouse:
        assert plan(read_labelled_snapshots(warehouse, SPECS, AS_OF), SPEC["churn_risk_30d"])


def test_a_missing_table_says_what_to_run():
    with duckdb.connect() as empty, pytest.raises(TrainingError, match="dbt build"):
        read_labelled_snapshots(empty, SPECS, AS_OF)


def test_truth_is_joined_by_customer_and_week_and_absent_for_real_data(tmp_path):
    customers = np.array(["b", "a", "c"])
    moments = np.array(["2025-01-06", "2025-01-06", "2025-01-06"], dtype="datetime64[us]")
    assert read_truth(tmp_path, customers, moments, ["churn_risk_30d"]) is None
    (tmp_path / "truth").mkdir()
    duckdb.sql(
        "select * from (values ('a', timestamp '2025-01-06', 0.25), ('b', timestamp '2025-01-06', 0.5),"
        " ('b', timestamp '2025-01-13', 0.75)) as t(customer_id, week_start, true_churn_risk_30d)"
    ).write_parquet(str(tmp_path / "truth" / "part.parquet"))
    truth = read_truth(tmp_path, customers, moments, ["churn_risk_30d"])
    assert np.array_equal(truth, [[0.5], [0.25], [np.nan]], equal_nan=True)


# ----------------------------------------------------------------------------------------------------------
# Leak
# ----------------------------------------------------------------------------------------------------------


def shuffled_from(
    columns: dict[str, np.ndarray], moment: np.datetime64, seed: int = 3
) -> dict[str, np.ndarray]:
    """The columns with every value, keys aside, of the rows at or after `moment` in another row's place.

    Each column is shuffled by itself, but for the two that say together who had no session yet: else nobody
    would be left to train the first-session model on.
    """
    random = np.random.default_rng(seed)
    later = np.flatnonzero(columns["feature_timestamp"] >= moment)
    together = random.permutation(later)
    changed = {name: values.copy() for name, values in columns.items()}
    for name in changed:
        if name in ("total_sessions_lifetime", "label_first_session_success"):
            changed[name][later] = changed[name][together]
        elif name not in ("customer_id", "feature_timestamp"):
            changed[name][later] = changed[name][random.permutation(later)]
    return changed


def test_shuffling_everything_after_d_changes_nothing_the_first_session_model_trains_on(columns, examples):
    before = examples["first_session_success"]
    for moment in (np.datetime64("2025-01-06"), np.datetime64("2025-07-07")):
        after = examples_of(shuffled_from(columns, moment + 1), "first_session_success")[
            "first_session_success"
        ]
        own, other = (each.take(each.snapshots <= moment) for each in (before, after))
        assert len(own) > 50
        assert np.array_equal(own.customer_ids, other.customer_ids)
        assert np.array_equal(own.features, other.features)
        assert np.array_equal(own.labels, other.labels)
        assert np.array_equal(own.block, other.block)
        # The shuffle did shuffle: the rows after D are others.
        later, later_after = (each.take(each.snapshots > moment) for each in (before, after))
        assert len(later) > 20 and not np.array_equal(later.features, later_after.features)


@pytest.mark.parametrize("name", ["churn_risk_30d", "session_velocity", "first_session_success"])
def test_what_happens_after_training_changes_nothing_in_the_model(columns, examples, learned, name):
    with warehouse_of(columns) as warehouse:
        until = plan(read_labelled_snapshots(warehouse, SPECS, AS_OF), SPEC[name]).blocks.trained_until
    own = examples_of(shuffled_from(columns, until), name)[name]
    assert not np.array_equal(own.of(REPORT).features, examples[name].of(REPORT).features)
    assert learn(SPEC[name], own, CATEGORICAL, 1, "v1", threads=1).model == learned[name].model


# ----------------------------------------------------------------------------------------------------------
# Fit and calibration
# ----------------------------------------------------------------------------------------------------------


def test_equal_data_give_an_equal_model_whatever_the_threads(examples, learned):
    for name in ("churn_risk_14d", "first_session_success"):
        again = learn(SPEC[name], examples[name], CATEGORICAL, 1, "v1", threads=2)
        assert again.model.booster_text == learned[name].model.booster_text
        assert again.model.calibration == learned[name].model.calibration
    other = learn(SPEC["churn_risk_14d"], examples["churn_risk_14d"], CATEGORICAL, 2, "v1", threads=1)
    assert other.model.booster_text != learned["churn_risk_14d"].model.booster_text


def test_models_beat_the_naive_guess(examples, learned):
    for name, each in learned.items():
        reporting = examples[name].of(REPORT)
        guessed = guess(SPEC[name].baseline, examples[name].of(FIT), reporting)
        scored = each.scored[examples[name].block == REPORT]
        if SPEC[name].kind == "amount":
            assert (
                amount_figures(reporting.labels, scored)["mae"]
                < amount_figures(reporting.labels, guessed)["mae"]
            )
        elif name.startswith("churn"):
            assert (
                probability_figures(reporting.labels, scored)["log_loss"]
                < probability_figures(reporting.labels, guessed)["log_loss"]
            )


def test_the_log_says_what_was_fitted(examples, learned):
    log = learned["churn_risk_30d"].log
    assert log["trees"] == learned["churn_risk_30d"].model.booster.num_trees()
    assert log["fit_rows"] == (examples["churn_risk_30d"].block == FIT).sum()
    choosing = examples["churn_risk_30d"].of(CHOOSE)
    assert log["choose_rows"] == choosing.not_yet_lapsed.sum() < len(choosing)
    assert sum(log["importance"].values()) == pytest.approx(1.0)


def test_negative_codes_are_scored_as_the_missing_values_they_were_trained_as(examples, learned):
    model = learned["churn_risk_30d"].model
    features = examples["churn_risk_30d"].features[:500].copy()
    codes = [model.features.index(name) for name in CATEGORICAL]
    assert (features[:, codes] == -1).any()
    missing = features.copy()
    missing[:, codes] = np.where(features[:, codes] < 0, np.nan, features[:, codes])
    assert np.array_equal(model.predict(features), model.predict(missing))


def test_calibration_improves_an_overconfident_model_and_keeps_the_order():
    random = np.random.default_rng(0)
    log_odds = random.normal(-1, 1.5, 20_000)
    labels = (random.random(20_000) < 1 / (1 + np.exp(-(0.5 * log_odds + 0.7)))).astype(float)
    overconfident = 1 / (1 + np.exp(-log_odds))
    calibration = fit_calibration(labels, overconfident)
    assert calibration.slope == pytest.approx(0.5, abs=0.03)
    assert calibration.intercept == pytest.approx(0.7, abs=0.05)
    calibrated = calibration.apply(overconfident)
    before, after = (probability_figures(labels, each) for each in (overconfident, calibrated))
    assert after["log_loss"] < before["log_loss"] - 0.01
    assert after["calibration_error"] < before["calibration_error"] / 3
    assert after["auc"] == pytest.approx(before["auc"], abs=1e-12)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=50),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_calibration_is_monotone_for_any_data(probabilities, data):
    labels = np.array(
        data.draw(
            st.lists(st.sampled_from([0.0, 1.0]), min_size=len(probabilities), max_size=len(probabilities))
        )
    )
    labels[0], labels[1] = 0.0, 1.0
    calibration = fit_calibration(labels, np.array(probabilities))
    assert calibration.slope > 0
    calibrated = calibration.apply(np.sort(np.array(probabilities)))
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()


def test_calibration_of_a_constant_only_moves_the_mean():
    labels = np.array([1.0, 0.0, 0.0, 0.0])
    calibrated = fit_calibration(labels, np.full(4, 0.9)).apply(np.full(4, 0.9))
    assert calibrated == pytest.approx(np.full(4, 0.25), abs=1e-3)


def test_calibration_needs_both_outcomes_and_a_positive_slope():
    with pytest.raises(ValueError, match="both outcomes"):
        fit_calibration(np.ones(3), np.array([0.1, 0.5, 0.9]))
    with pytest.raises(ValueError, match="slope"):
        Calibration(slope=0.0, intercept=0.0)


def test_the_churn_probabilities_are_in_order_and_only_the_shorter_gives_way(released, columns):
    matrix = np.column_stack([columns[name].astype(float) for name in CATALOG.names])[:5_000]
    alone = {
        name: model.predict(matrix[:, [CATALOG.names.index(feature) for feature in model.features]])
        for name, model in released.models.items()
    }
    together = released.predict(matrix, CATALOG.names)
    assert (alone["churn_risk_14d"] > alone["churn_risk_30d"]).any()
    assert (together["churn_risk_14d"] <= together["churn_risk_30d"]).all()
    kept = alone["churn_risk_14d"] <= alone["churn_risk_30d"]
    assert np.array_equal(together["churn_risk_14d"][kept], alone["churn_risk_14d"][kept])
    for name in MODEL_NAMES[1:]:
        assert np.array_equal(together[name], alone[name])
    assert tuple(together) == MODEL_NAMES
    assert in_order(together)["churn_risk_14d"] is not together["churn_risk_14d"]


def test_bounds_hold(released, columns):
    matrix = np.column_stack([columns[name].astype(float) for name in CATALOG.names])[:5_000]
    low = replace(released.models["health_score"], lower=50.0, upper=55.0)
    service = [CATALOG.names.index(feature) for feature in low.features]
    raw = np.asarray(low.booster.predict(matrix[:, service]))
    assert raw.min() < 50 < 55 < raw.max()
    assert np.array_equal(low.predict(matrix[:, service]), np.clip(raw, 50, 55))


def test_contributions_add_up_to_what_is_predicted(released, examples):
    for name, model in released.models.items():
        features = examples[name].features[:200]
        sums = model.contributions(features).sum(axis=1)
        predicted = (
            1 / (1 + np.exp(-sums))
            if SPEC[name].kind == "probability"
            else np.clip(sums, model.lower, model.upper)
        )
        assert model.predict(features) == pytest.approx(predicted, abs=1e-9)
        assert model.contributions(features).shape == (200, len(model.features) + 1)


def test_a_matrix_of_another_width_is_refused(released):
    with pytest.raises(ValueError, match="features a row"):
        released.models["health_score"].predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="needs the features"):
        released.predict(np.zeros((2, 1)), ["days_since_last_login"])
    empty = released.predict(np.zeros((0, len(CATALOG.names))), CATALOG.names)
    assert {values.shape for values in empty.values()} == {(0,)}


# ----------------------------------------------------------------------------------------------------------
# Figures
# ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_probability_figures_agree_with_scikit_learn(seed):
    random = np.random.default_rng(seed)
    labels = (random.random(60) < 0.4).astype(float)
    labels[:2] = 0.0, 1.0
    probabilities = np.round(random.random(60), 2)
    figures = probability_figures(labels, probabilities)
    assert figures["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(labels, probabilities))
    assert figures["average_precision"] == pytest.approx(
        sklearn_metrics.average_precision_score(labels, probabilities)
    )
    assert figures["log_loss"] == pytest.approx(
        sklearn_metrics.log_loss(labels, np.clip(probabilities, 1e-15, 1 - 1e-15))
    )
    assert figures["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(labels, probabilities))
    assert figures["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, probabilities >= 0.5))


def test_figures_by_hand():
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    probabilities = np.array([0.1, 0.4, 0.35, 0.8])
    figures = probability_figures(labels, probabilities)
    assert figures["auc"] == pytest.approx(0.75)  # 3 of 4 pairs in order
    assert figures["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert figures["log_loss"] == pytest.approx(-np.log(0.9 * 0.6 * 0.35 * 0.8) / 4)
    assert figures["brier"] == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert figures["accuracy"] == pytest.approx(0.75)
    amounts = amount_figures(np.array([1.0, 2.0]), np.array([2.0, 5.0]))
    assert amounts == {
        "rows": 2,
        "mae": 2.0,
        "rmse": pytest.approx(np.sqrt(5)),
        "mean_label": 1.5,
        "mean_prediction": 3.5,
    }


def test_calibration_error_by_hand():
    # Two groups of two: |0.15 - 0.5| and |0.85 - 1.0|, in equal parts.
    labels = np.array([1.0, 0.0, 1.0, 1.0])
    probabilities = np.array([0.1, 0.2, 0.8, 0.9])
    assert calibration_error(labels, probabilities, bins=2) == pytest.approx((0.35 + 0.15) / 2)
    # Groups of unequal size count by their rows: three and two.
    labels = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    probabilities = np.array([0.3, 0.3, 0.3, 0.5, 0.5])
    assert calibration_error(labels, probabilities, bins=2) == pytest.approx((3 * 0.3 + 2 * 0.5) / 5)
    assert calibration_error(np.array([1.0]), np.array([0.25])) == pytest.approx(0.75)


def test_figures_that_the_rows_cannot_give_are_none():
    one_class = probability_figures(np.ones(3), np.array([0.5, 0.6, 0.7]))
    assert one_class["auc"] is None and one_class["average_precision"] is None
    assert one_class["brier"] == pytest.approx((0.25 + 0.16 + 0.09) / 3)
    assert probability_figures(np.empty(0), np.empty(0))["log_loss"] is None
    assert amount_figures(np.empty(0), np.empty(0))["mae"] is None


def test_baselines_learn_from_the_fit_block_alone(examples):
    own = examples["churn_risk_30d"]
    fitting, reporting = own.of(FIT), own.of(REPORT)
    baseline = SPEC["churn_risk_30d"].baseline
    guessed = guess(baseline, fitting, reporting)
    blind = guess(baseline, fitting, replace(reporting, labels=1.0 - reporting.labels))
    assert np.array_equal(guessed, blind)
    days_since = reporting.column("days_since_last_session")
    order = np.argsort(days_since)
    steps = np.diff(guessed[order])
    assert (steps >= 0).all() or (steps <= 0).all()
    last = guess(Baseline("value", "health_index", ""), fitting, reporting)
    assert np.array_equal(last, reporting.extra["health_index"])


def test_each_model_has_a_reference_and_a_place():
    assert tuple(spec.name for spec in SPECS) == MODEL_NAMES == tuple(REFERENCES)


# ----------------------------------------------------------------------------------------------------------
# Releases
# ----------------------------------------------------------------------------------------------------------


def test_a_release_comes_back_bit_for_bit(released, examples, tmp_path):
    directory = write_release(released, tmp_path, {"report.json": "{}\n"})
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        ["release.json", "report.json", *(f"{name}.txt" for name in MODEL_NAMES)]
    )
    back = read_release(tmp_path, "v1")
    assert back == released
    for name, model in back.models.items():
        features = examples[name].features[:300]
        assert np.array_equal(model.predict(features), released.models[name].predict(features))
    assert read_champion(tmp_path) is None
    set_champion(tmp_path, "v1")
    assert read_champion(tmp_path) == released


def test_a_release_is_never_overwritten(released, tmp_path):
    write_release(released, tmp_path)
    with pytest.raises(ReleaseError, match="exists already"):
        write_release(replace(released, training_rows=1), tmp_path)
    assert read_release(tmp_path, "v1").training_rows == 4711


@pytest.mark.parametrize("failing", [1, 3, 6])
def test_a_failing_write_leaves_nothing(released, tmp_path, monkeypatch, failing):
    written = []

    def full_disk(file):
        written.append(file)
        if len(written) == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_release(released, tmp_path)
    assert list((tmp_path / "releases").iterdir()) == []
    assert list_releases(tmp_path) == ()


def test_a_failing_pointer_leaves_the_old_champion(released, tmp_path, monkeypatch):
    write_release(released, tmp_path)
    write_release(replace(released, model_version="v2"), tmp_path)
    set_champion(tmp_path, "v1")

    def full_disk(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full_disk)
    with pytest.raises(OSError, match="No space"):
        set_champion(tmp_path, "v2")
    assert read_champion(tmp_path).model_version == "v1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["champion.json", "releases"]


def test_releases_are_listed_in_the_order_of_their_numbers(released, tmp_path):
    for version in ("v10", "v2", "v1"):
        write_release(replace(released, model_version=version), tmp_path)
    (tmp_path / "releases" / ".v3-interrupted").mkdir()
    assert list_releases(tmp_path) == ("v1", "v2", "v10")
    assert list_releases(tmp_path / "nowhere") == ()


def test_what_is_wrong_with_a_release_is_said_with_the_file(released, tmp_path):
    directory = write_release(released, tmp_path)
    set_champion(tmp_path, "v1")
    model, described = directory / "health_score.txt", directory / "release.json"
    text, content = model.read_text(), described.read_text()

    model.write_text(text.replace("leaf_value=", "leaf_value=9", 1))
    with pytest.raises(ReleaseError, match=r"health_score\.txt is not the one that was released"):
        read_champion(tmp_path)
    model.unlink()
    with pytest.raises(ReleaseError, match=r"health_score\.txt is missing"):
        read_champion(tmp_path)
    model.write_text(text)
    assert read_champion(tmp_path) == released

    def altered(change) -> str:
        document = json.loads(content)
        change(document)
        return json.dumps(document)

    features = altered(lambda document: document["models"][2]["features"].reverse())
    for wrong, message in (
        ("{", r"release\.json cannot be read as JSON"),
        ("[]", r"release\.json cannot be read"),
        (features, r"health_score\.txt was trained on other features than release\.json lists: the order"),
        (altered(lambda document: document.update(format=99)), "format 99"),
        (altered(lambda document: document["models"].pop()), r"release\.json is not a release"),
    ):
        described.write_text(wrong)
        with pytest.raises(ReleaseError, match=message):
            read_champion(tmp_path)
    described.unlink()
    with pytest.raises(ReleaseError, match=r"release\.json is missing"):
        set_champion(tmp_path, "v1")
    (tmp_path / "champion.json").write_text("{}")
    with pytest.raises(ReleaseError, match="names no model_version"):
        read_champion(tmp_path)
    with pytest.raises(ReleaseError, match=r"not '\.\./v1'"):
        read_release(tmp_path, "../v1")


# ----------------------------------------------------------------------------------------------------------
# The decision about the champion
# ----------------------------------------------------------------------------------------------------------


def worse(model: ReleasedModel) -> ReleasedModel:
    """The model with its predictions spoiled: probabilities turned flat, amounts pushed to a bound."""
    if model.calibration is not None:
        return replace(model, calibration=Calibration(slope=1e-3, intercept=3.0))
    return replace(model, lower=90.0)


def test_an_identical_challenger_is_not_worse(learned, examples):
    models = {name: each.model for name, each in learned.items()}
    chosen, decisions = decide(
        {name: replace(m, origin_version="v2") for name, m in models.items()}, models, examples
    )
    assert all(decision.replaced for decision in decisions.values())
    assert all(decision.challenger == decision.incumbent for decision in decisions.values())
    assert {model.origin_version for model in chosen.values()} == {"v2"}
    assert becomes_champion(decisions)


def test_a_worse_challenger_never_replaces_the_incumbent(learned, examples):
    models = {name: each.model for name, each in learned.items()}
    challengers = {name: replace(worse(model), origin_version="v2") for name, model in models.items()}
    chosen, decisions = decide(challengers, models, examples)
    assert chosen == models
    assert not becomes_champion(decisions)
    # The other way round every one of them is an improvement.
    chosen, decisions = decide(models, challengers, examples)
    assert chosen == models and becomes_champion(decisions)
    assert tuple(chosen) == tuple(decisions) == MODEL_NAMES


def test_one_better_booster_makes_a_new_bundle_with_the_others_carried_over(learned, examples):
    models = {name: each.model for name, each in learned.items()}
    challengers = {name: replace(worse(model), origin_version="v2") for name, model in models.items()}
    challengers["session_velocity"] = replace(models["session_velocity"], origin_version="v2")
    chosen, decisions = decide(challengers, models, examples)
    assert {name for name, decision in decisions.items() if decision.replaced} == {"session_velocity"}
    assert chosen["session_velocity"].origin_version == "v2"
    assert {chosen[name].origin_version for name in MODEL_NAMES if name != "session_velocity"} == {"v1"}
    assert becomes_champion(decisions)


def test_the_decision_is_made_on_those_not_yet_lapsed(learned, examples):
    models = {name: each.model for name, each in learned.items()}
    _, decisions = decide(models, None, examples)
    own = examples["churn_risk_30d"].of(REPORT)
    own = own.take(own.not_yet_lapsed)
    expected = probability_figures(own.labels, models["churn_risk_30d"].predict(own.features))["log_loss"]
    assert decisions["churn_risk_30d"].challenger == pytest.approx(expected, rel=1e-12)
    assert decisions["churn_risk_30d"].incumbent is None and decisions["churn_risk_30d"].replaced
    assert decisions["first_session_success"].population == "everyone"


def test_an_incumbent_whose_features_are_gone_is_replaced(learned, examples):
    models = {name: each.model for name, each in learned.items()}
    health = models["health_score"]
    old = replace(health, features=("a_feature_of_old", *health.features[1:]))
    _, decisions = decide(models, {**models, "health_score": old}, examples)
    assert decisions["health_score"].replaced
    assert "a_feature_of_old" in decisions["health_score"].reason


def test_which_way_is_better():
    assert (
        not_worse("log_loss", 0.3, 0.3) and not_worse("log_loss", 0.2, 0.3) and not not_worse("mae", 0.4, 0.3)
    )
    assert not_worse("auc", 0.9, 0.8) and not not_worse("accuracy", 0.7, 0.8)


# ----------------------------------------------------------------------------------------------------------
# From end to end, with MLflow
# ----------------------------------------------------------------------------------------------------------


def settings_in(directory: Path, **changes) -> Settings:
    standard = Settings(
        as_of=AS_OF,
        trained_at=datetime(2026, 1, 26, 3, 0),
        seed=1,
        models_dir=directory / "models",
        raw_dir=directory / "raw",
        tracking_uri=f"sqlite:///{directory / 'mlflow' / 'mlflow.db'}",
        artifact_root=directory / "mlflow" / "artifacts",
        threads=1,
    )
    return replace(standard, **changes)


@pytest.fixture(scope="module")
def trained(columns, tmp_path_factory):
    """A first and, on the same data and seed, a second training."""
    directory = tmp_path_factory.mktemp("trained")
    with warehouse_of(columns) as warehouse:
        outcomes = [
            train(
                warehouse, retrieve_from(warehouse), CATEGORICAL, settings_in(directory), lambda message: None
            )
            for _ in range(2)
        ]
    return directory, outcomes


def test_the_first_version_is_champion_outright(trained):
    directory, (first, _) = trained
    assert first.champion and first.release.model_version == "v1"
    stored = read_release(directory / "models", "v1")
    assert stored.models == first.release.models
    assert {model.origin_version for model in stored.models.values()} == {"v1"}
    assert {each["reason"] for each in stored.decision["models"].values()} == {"first version"}
    assert stored.data_as_of == AS_OF and stored.trained_at == datetime(2026, 1, 26, 3, 0)
    assert stored.trained_until < AS_OF


def test_the_same_data_again_make_the_same_models_and_a_new_champion(trained):
    directory, (first, second) = trained
    assert second.release.model_version == "v2" and second.champion
    for name in MODEL_NAMES:
        assert second.release.models[name].booster_text == first.release.models[name].booster_text
        assert second.decisions[name].challenger == second.decisions[name].incumbent
    assert read_champion(directory / "models").model_version == "v2"
    assert list_releases(directory / "models") == ("v1", "v2")


def test_mlflow_holds_figures_files_decision_and_alias(trained):
    directory, (_, second) = trained
    client = client_in(directory)
    version = client.get_model_version_by_alias("customer_health", "champion")
    assert str(version.version) == "2"
    assert version.tags["decision"] == second.release.decision["summary"]
    assert version.tags["decision.health_score"] == "new: not worse than the incumbent"
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    figure = second.release.models["churn_risk_30d"].held_out["not_yet_lapsed"]["auc"]
    assert run.data.metrics["churn_risk_30d.not_yet_lapsed.auc"] == figure
    assert run.data.params["data_as_of"] == AS_OF.isoformat()
    logged = directory / "mlflow" / "artifacts" / version.run_id / "artifacts" / "release"
    for path in (directory / "models" / "releases" / "v2").iterdir():
        assert (logged / path.name).read_bytes() == path.read_bytes()
    assert {path.suffix for path in logged.iterdir()} == {".txt", ".json"}


def test_the_report_has_both_populations_baseline_and_reference(trained):
    directory, _ = trained
    report = json.loads((directory / "models" / "releases" / "v1" / "report.json").read_text())
    for name in MODEL_NAMES:
        held_out = report["models"][name]["held_out"]
        populations = {"everyone"} if name == "first_session_success" else {"everyone", "not_yet_lapsed"}
        assert populations == {"everyone", "not_yet_lapsed"} & set(held_out)
        assert populations <= set(held_out["baseline"])
        assert held_out["reference"]["low"] < held_out["reference"]["high"]
        assert held_out["best_possible"] is None  # no simulator, no truth
        assert held_out["everyone"]["rows"] == held_out["blocks"]["report"]["rows"]
        assert held_out["blocks"]["fit"]["last_snapshot"] < held_out["blocks"]["choose"]["first_snapshot"]
    assert (
        report["models"]["churn_risk_30d"]["held_out"]["not_yet_lapsed"]["rows"]
        < report["models"]["churn_risk_30d"]["held_out"]["everyone"]["rows"]
    )


def spoiled(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The marketplace with the labels that are learned from shuffled; those held out are as before."""
    random = np.random.default_rng(5)
    groups = customer_groups(customer_hashes(columns["customer_id"]))
    learned_from = groups != REPORT
    changed = dict(columns)
    for spec in SPECS:
        labels = columns[spec.label].copy()
        usable = np.flatnonzero(learned_from & ~np.isnan(labels))
        labels[usable] = labels[random.permutation(usable)]
        changed[spec.label] = labels
    return changed


def client_in(directory: Path):
    return registry.open_store(settings_in(directory).tracking_uri, settings_in(directory).artifact_root)


def champion_of(client) -> str:
    return str(client.get_model_version_by_alias("customer_health", "champion").version)


def test_a_worse_version_is_registered_but_the_champion_stays(columns, released, tmp_path):
    # The good models are there as files alone: MLflow hears of v1 and of its being champion on the way.
    write_release(released, tmp_path / "models")
    set_champion(tmp_path / "models", "v1")
    with warehouse_of(spoiled(columns)) as warehouse:
        outcome = train(
            warehouse, retrieve_from(warehouse), CATEGORICAL, settings_in(tmp_path), lambda message: None
        )
    assert not outcome.champion and outcome.release.model_version == "v2"
    assert read_champion(tmp_path / "models").model_version == "v1"
    client = client_in(tmp_path)
    assert champion_of(client) == "1"
    assert client.get_model_version("customer_health", "2").tags["decision"].startswith("kept champion")
    kept = read_release(tmp_path / "models", "v2")
    for name in MODEL_NAMES:
        assert kept.models[name].origin_version == "v1"
        assert kept.models[name].booster_text == released.models[name].booster_text
        decision = kept.decision["models"][name]
        assert decision["challenger"] > decision["incumbent"] and not decision["replaced"]


def published(client, models_dir: Path, release: Release, champion: bool = True) -> str:
    def describe(version: str) -> registry.Publication:
        return registry.Publication(replace(release, model_version=version), {}, {}, {}, {}, champion)

    return registry.publish(client, models_dir, describe).release.model_version


def test_a_training_that_dies_leaves_the_champion(released, tmp_path, monkeypatch):
    models, client = tmp_path / "models", client_in(tmp_path)
    assert published(client, models, released) == "v1"

    def dies(*_, **__):
        raise OSError(28, "No space left on device")

    for step in ("_log", "write_release", "set_champion"):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(registry, step, dies)
            published(client, models, released)
        assert read_champion(models).model_version == "v1"
        failed = client.search_runs([client.get_experiment_by_name("customer_health").experiment_id])[0]
        assert failed.info.status == "FAILED"
    # The next trainings go on with numbers of their own, and the alias follows what scoring reads.
    assert published(client, models, released, champion=False) == "v5"
    assert champion_of(client) == "1"
    assert published(client, models, released) == "v6"
    assert champion_of(client) == "6" and read_champion(models).model_version == "v6"


def test_a_lost_mlflow_store_gives_no_number_twice(released, tmp_path):
    models = tmp_path / "models"
    write_release(released, models)
    write_release(replace(released, model_version="v3"), models)
    set_champion(models, "v1")
    client = client_in(tmp_path)
    assert published(client, models, released, champion=False) == "v4"
    assert champion_of(client) == "1"


def test_two_trainings_do_not_write_at_once(tmp_path):
    with registry.training_lock(tmp_path):
        error = _error_of(lambda: registry.training_lock(tmp_path).__enter__())
        assert "Another training" in str(error)
    with registry.training_lock(tmp_path):
        pass


# ----------------------------------------------------------------------------------------------------------
# The command
# ----------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "training", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_helps_and_fails_in_one_sentence(tmp_path):
    helped = run_command("--help")
    assert helped.returncode == 0
    for word in ("--as-of", "--seed", "WAREHOUSE_PATH", "MLFLOW_TRACKING_URI"):
        assert word in helped.stdout
    missing = run_command(WAREHOUSE_PATH=str(tmp_path / "none.duckdb"))
    assert missing.returncode == 1
    assert "run `make run` or `dbt build` first" in missing.stderr
    assert "Traceback" not in missing.stderr
    wrong = run_command("--as-of", "soon")
    assert wrong.returncode == 2 and "'soon' is not a date" in wrong.stderr


def test_the_command_trains_from_feast(columns, tmp_path):
    """The whole way, with Feast's own retrieval out of Parquet exports."""
    warehouse = tmp_path / "warehouse.duckdb"
    exports = tmp_path / "exports"
    with warehouse_of(columns) as source:
        (exports / WIDE_RELATION).mkdir(parents=True)
        source.execute(
            f"copy features.{WIDE_RELATION} to '{exports / WIDE_RELATION / 'part.parquet'}' (format parquet)"
        )
        source.execute(f"attach '{warehouse}' as written")
        source.execute("create schema written.features; create schema written.labels")
        for table in ("features.customer_features", "labels.customer_labels"):
            source.execute(f"create table written.{table} as from {table}")
    feast = tmp_path / "feature_store.yaml"
    text = (ROOT / "feature_repo" / "feature_store.yaml").read_text()
    feast.write_text(text.replace("../data/feast", str(tmp_path / "feast")))
    environment = {
        "WAREHOUSE_PATH": str(warehouse),
        "FEATURE_EXPORT_DIR": str(exports),
        "FEAST_FS_YAML_FILE_PATH": str(feast),
        "MODELS_DIR": str(tmp_path / "models"),
        "RAW_DATA_DIR": str(tmp_path / "raw"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
    }
    before_apply = run_command(**environment)
    assert before_apply.returncode == 1 and "apply" in before_apply.stderr

    apply = "from feature_repo.store import apply, open_store; apply(open_store())"
    subprocess.run(
        [sys.executable, "-c", apply], cwd=ROOT, env={**os.environ, **environment}, check=True, timeout=120
    )
    done = run_command("--as-of", "2026-01-26", "--seed", "1", **environment)
    assert done.returncode == 0, done.stderr
    assert "Version v1: champion" in done.stdout
    champion = read_champion(tmp_path / "models")
    # Feast's retrieval gives what a plain join gives, to the last bit: so the models are the same, too.
    with warehouse_of(columns) as source:
        labelled = read_labelled_snapshots(source, SPECS, AS_OF)
        own = retrieve_examples(labelled, [plan(labelled, SPEC["session_velocity"])], retrieve_from(source))
    expected = learn(SPEC["session_velocity"], own["session_velocity"], CATEGORICAL, 1, "v1").model
    assert champion.models["session_velocity"].booster_text == expected.booster_text
