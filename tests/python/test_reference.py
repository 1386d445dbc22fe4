"""The reference itself, against numbers computed by hand, and against the promises that it must keep."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from raw_data import (
    ANCHOR_SIGNUP,
    AS_OF,
    DAY,
    FIRST_SNAPSHOT,
    GRACE,
    HOUR,
    SIGNUP,
    US,
    D,
    Expect,
    Mutation,
    RawData,
    hard_cases,
    random_worlds,
)
from reference import (
    FEATURES,
    LABELS,
    World,
    default_as_of,
    features,
    health_index,
    judge,
    labels,
    read_raw,
    segment,
    snapshots,
)
from reference.comparison import differences, expected_features, report, same

HARD_RAW, EXPECTED = hard_cases()


@pytest.fixture(scope="module")
def hard_world() -> World:
    """All hard cases together."""
    return World(HARD_RAW.tables)


@pytest.fixture(scope="module")
def random_raw() -> RawData:
    """A few random worlds, with what lands after AS_OF."""
    return random_worlds(6, seed=100)


@pytest.mark.parametrize("expect", EXPECTED, ids=lambda expect: f"{expect.customer_id}@{expect.at:%m-%d}")
def test_hard_case(hard_world: World, expect: Expect) -> None:
    """Each hard case gives the features that a person works out from the spec."""
    values = features(hard_world, expect.customer_id, expect.at)
    if expect.values is None:
        assert values is None
    else:
        assert values is not None, "out of scope"
        assert {name: values[name] for name in expect.values} == expect.values


def test_the_59_features_in_order(hard_world: World) -> None:
    """The catalogue of features.md: 59 names, the first and the last of each stretch where they belong."""
    assert len(FEATURES) == len(set(FEATURES)) == 59
    places = {
        1: "session_count_7d",
        9: "avg_rating_30d",
        18: "avg_session_duration_30d",
        31: "active_days_7d",
    }
    places |= {39: "payment_amount_30d", 40: "days_since_last_session", 44: "customer_tenure_days"}
    places |= {47: "subscription_tier", 52: "primary_tutor_rating", 55: "first_session_was_success"}
    places |= {59: "spend_acceleration"}
    assert {number: FEATURES[number - 1] for number in places} == places
    values = features(hard_world, "edge_before", D)
    assert values is not None
    assert [*values] == FEATURES
    assert not [name for name, value in values.items() if value is None]


def test_rejections_of_every_table() -> None:
    """The rows of `case_every_rejection`, counted by hand, and nothing else of that case."""
    judged = judge(HARD_RAW.tables)
    ours = [r for r in judged.rejected if "reject" in repr(r.row) or "nobody" in repr(r.row)]
    counts = Counter((r.source_table.removeprefix("raw_"), r.reason) for r in ours)
    assert counts == {
        ("customers", "missing_timestamp"): 1,
        ("customers", "unknown_value"): 3,
        ("customers", "event_after_load"): 2,
        ("customers", "event_before_signup"): 1,
        ("tutors", "unknown_value"): 2,
        ("sessions", "missing_key"): 2,
        ("sessions", "unknown_customer"): 1,
        ("sessions", "missing_timestamp"): 5,
        ("sessions", "unknown_value"): 4,
        ("sessions", "out_of_range"): 4,
        ("sessions", "event_after_load"): 4,
        ("sessions", "event_before_signup"): 4,
        ("calls", "missing_key"): 2,
        ("calls", "unknown_customer"): 1,
        ("calls", "missing_timestamp"): 1,
        ("calls", "unknown_value"): 4,
        ("calls", "out_of_range"): 5,
        ("calls", "event_after_load"): 1,
        ("calls", "event_before_signup"): 1,
        ("payments", "missing_key"): 2,
        ("payments", "unknown_customer"): 1,
        ("payments", "missing_timestamp"): 1,
        ("payments", "unknown_value"): 2,
        ("payments", "out_of_range"): 1,
        ("payments", "event_after_load"): 1,
        ("payments", "event_before_signup"): 1,
        ("app_events", "missing_key"): 2,
        ("app_events", "unknown_customer"): 1,
        ("app_events", "missing_timestamp"): 1,
        ("app_events", "unknown_value"): 2,
        ("app_events", "event_after_load"): 1,
        ("app_events", "event_before_signup"): 1,
        ("tutor_availability", "missing_key"): 1,
        ("tutor_availability", "unknown_value"): 1,
        ("tutor_availability", "out_of_range"): 2,
    }
    keyless = {(r.source_table, r.primary_key) for r in judged.rejected if r.reason == "missing_key"}
    assert ("raw_tutor_availability", "|algebra_1|2025-09-01") in keyless
    assert ("raw_tutors", None) in keyless and ("raw_customers", None) in keyless


def test_health_index() -> None:
    """Three indices by hand: the best, the worst, and one in between."""
    assert health_index(2.5, 0, 5.0, 1.0, 0, 1.0) == 100.0
    assert health_index(0.0, 999, 1.0, 0.0, 9, 0.0) == 0.0
    # 35 * 0.5 + 20 * 0.5 + 15 * 0.75 + 10 * 0.5 + 10 * 0.75 + 10 * 0.25
    assert health_index(1.0, 15, 4.0, 0.5, 1, 0.25) == 53.75


def test_segments(hard_world: World) -> None:
    """Churned from 30 whole days on, by the last session or else by the signup."""
    found = {
        name: segment(features(hard_world, name, D) or {})
        for name in ("clock_29", "clock_30", "clock_session_29", "clock_session_30", "order_late")
    }
    assert found == {
        "clock_29": "at_risk",
        "clock_30": "churned",
        "clock_session_29": "at_risk",
        "clock_session_30": "churned",
        # 35 * (2 * 7 / 30 / 2) + 20 * (1 - 5 / 30) + 15 * 0.5 + 10 + 10 + 5 = 57.3
        "order_late": "at_risk",
    }
    busy = {
        "total_sessions_lifetime": 9,
        "days_since_last_session": 0,
        "session_frequency_30d": 2.0,
        "avg_rating_30d": 1.0,
        "payment_success_rate_30d": 1.0,
        "ib_call_count_14d": 2,
        "tutor_consistency_score": 1.0,
    }
    assert segment(busy) == "thriving"  # 35 + 20 + 0 + 10 + 5 + 10 = 80
    assert segment(busy | {"tutor_consistency_score": 0.9}) == "healthy"
    assert (
        segment(busy | {"tutor_consistency_score": 0.0, "payment_success_rate_30d": 0.0}) == "healthy"
    )  # 60
    assert (
        segment(
            busy | {"tutor_consistency_score": 0.0, "ib_call_count_14d": 3, "payment_success_rate_30d": 0.0}
        )
        == "at_risk"
    )


def test_churn_labels(hard_world: World) -> None:
    """30 days exactly are no lapse; a microsecond more is one; without a session the signup starts the
    clock.
    """
    churn = {
        name: (row["label_churn_risk_14d"], row["label_churn_risk_30d"])
        for name in ("lapse_none", "lapse", "silent")
        for row in [labels(hard_world, name, D, AS_OF)]
    }
    assert churn == {"lapse_none": (0, 0), "lapse": (1, 1), "silent": (1, 1)}
    later = D + 7 * DAY
    assert labels(hard_world, "lapse_start", later, AS_OF)["label_churn_risk_14d"] == 0
    assert labels(hard_world, "lapse_started", later, AS_OF)["label_churn_risk_14d"] == 1


def test_churn_label_of_30_days_covers_that_of_14() -> None:
    """A lapse that holds at D + 14 days and is over at D + 30 days started before D + 30 days: both labels
    are 1.
    """
    raw = RawData()
    raw.customer("c")
    for number, days in enumerate((-20, 15, 22, 29, 36, 43, 50, 57)):
        raw.session(f"s{number}", "c", D + days * DAY)
    row = labels(World(raw.tables), "c", D, AS_OF)
    assert (row["label_churn_risk_14d"], row["label_churn_risk_30d"]) == (1, 1)


def test_first_session_labels(hard_world: World) -> None:
    """Only a first session in [D, D + 14 days), rated within seven days, has a label."""
    found = {
        name: labels(hard_world, f"first_{name}", D, AS_OF)["label_first_session_success"]
        for name in (
            "good",
            "bad",
            "late_rating",
            "before",
            "last",
            "after",
            "unrated",
            "half_rated",
            "tie",
            "corrected",
        )
    }
    assert found == {
        "good": 1,
        "bad": 0,
        "late_rating": None,
        "before": None,
        "last": 1,
        "after": None,
        "unrated": None,
        "half_rated": None,
        "tie": 0,
        "corrected": 1,
    }


def test_velocity_and_health_labels() -> None:
    """A future worked out by hand, event by event, at the edges of [D, D + 28) and [D, D + 30) days."""
    raw = RawData()
    raw.customer("c")
    for number, days in enumerate((-1, 0, 7, 14, 21, 28)):
        raw.session(f"s{number}", "c", D + days * DAY, tutor_id="A" if number < 4 else "B")
    raw.session("s6", "c", D + 28 * DAY - US, tutor_id="B")
    raw.session("s7", "c", D + 30 * DAY, tutor_id="B", rating=1, rated_at=D + 30 * DAY)
    raw.session("s8", "c", D - 2 * DAY, rating=3, rated_at=D - US)
    raw.call("k1", "c", D + 16 * DAY - US)
    raw.call("k2", "c", D + 16 * DAY)
    raw.call("k3", "c", D + 30 * DAY)
    raw.payment("p1", "c", D, "1.00", status="failed")
    raw.payment("p2", "c", D + 30 * DAY - US, "1.00")
    row = labels(World(raw.tables), "c", D, AS_OF)
    assert row["label_session_velocity"] == 5 / 4  # days 0, 7, 14, 21 and the last microsecond of day 27
    # six sessions in the window, the last 2 whole days before its end, the only rating of before, half the
    # payments,
    # one call in its last 14 days, three of six sessions with either tutor
    engagement, recency, satisfaction = (6 * 7.0 / 30) / 2.0, 1 - 2 / 30.0, 0.5
    expected = 35 * engagement + 20 * recency + 15 * satisfaction + 10 * 0.5 + 10 * 0.75 + 10 * 0.5
    assert row["label_health_score"] == expected
    assert 68.1 < expected < 68.2


@pytest.mark.parametrize(("label", "days"), [*zip(LABELS, (44, 60, 28, 30, 21), strict=True)])
def test_labels_mature(hard_world: World, label: str, days: int) -> None:
    """A label is null until the data reach past the last moment that it depends on."""
    customer = "first_good"
    assert labels(hard_world, customer, D, D + days * DAY - US)[label] is None
    assert labels(hard_world, customer, D, D + days * DAY)[label] is not None


def test_snapshots(hard_world: World) -> None:
    """Mondays from 120 days after the first signup, days where asked for, and the as-of date."""
    assert ANCHOR_SIGNUP + 120 * DAY == FIRST_SNAPSHOT
    found = snapshots(hard_world, datetime(2025, 9, 17))
    assert found == [datetime(2025, 9, day) for day in (1, 8, 15, 17)]
    daily = snapshots(hard_world, datetime(2025, 9, 17), datetime(2025, 9, 14))
    assert daily == [datetime(2025, 9, day) for day in (1, 8, 14, 15, 16, 17)]
    later = RawData()
    later.customer("c", ANCHOR_SIGNUP + US)
    assert snapshots(World(later.tables), datetime(2025, 9, 8)) == [datetime(2025, 9, 8)]


def test_default_as_of() -> None:
    """The last midnight by which all tables had landed: the slowest table decides."""
    raw, _ = hard_cases()
    for table, rows in raw.tables.items():
        for row in rows:
            row["loaded_at"] = D + HOUR if table == "raw_calls" else D + 3 * DAY
    assert default_as_of(raw.tables) == D


def test_tenure_is_not_capped() -> None:
    """The cap of 999 days belongs to the times since something, not to the tenure."""
    raw = RawData()
    raw.customer("c", D - 1200 * DAY)
    raw.event("old", "c", D - 1100 * DAY)
    raw.call("new", "c", D - DAY)
    values = features(World(raw.tables), "c", D)
    assert values is not None
    assert (values["customer_tenure_days"], values["days_since_last_login"]) == (1200, 999)


def test_late_signup_correction_changes_no_earlier_snapshot() -> None:
    """A signup corrected by months, after the fact, rejects nothing that earlier snapshots have counted."""
    raw = RawData()
    raw.customer("c", SIGNUP)
    raw.session("s", "c", D - 10 * DAY)
    before = features(World(raw.tables), "c", D)
    raw.customer("c", D - DAY, loaded_at=D + 10 * DAY)
    world = World(raw.tables)
    assert features(world, "c", D) == before
    assert before is not None and before["total_sessions_lifetime"] == 1
    after = features(world, "c", D + 14 * DAY)
    assert after is not None and after["customer_tenure_days"] == 15


def test_written_files_read_back(tmp_path) -> None:
    """What the builder writes is what the reference reads, but for the order of rows."""
    raw, _ = hard_cases()
    read = read_raw(raw.write(tmp_path / "raw"))
    for table, rows in raw.tables.items():
        assert sorted(map(repr, read[table])) == sorted(
            repr({**row, "amount": _two_digits(row["amount"])} if "amount" in row else row) for row in rows
        )
    bare = read_raw(raw.write(tmp_path / "bare", without_loaded_at=["raw_calls"]))
    assert {row["loaded_at"] for row in bare["raw_calls"]} == {None}


def _two_digits(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else amount.quantize(Decimal("0.01"))


def test_order_of_rows_does_not_matter(random_raw: RawData) -> None:
    """The same rows in the opposite order give the same features and the same rejected rows."""
    backwards = {table: rows[::-1] for table, rows in random_raw.tables.items()}
    one, other = World(random_raw.tables), World(backwards)
    moments = [D, AS_OF]
    rows = expected_features(one, one.customers, moments)
    lines = differences(expected_features(other, other.customers, moments), rows)
    assert rows and not lines, report(lines)
    assert sorted(map(repr, one.judged.rejected)) == sorted(map(repr, other.judged.rejected))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_later_changes_a_snapshot(random_raw: RawData, seed: int) -> None:
    """Facts after the cutoff, arrivals after it and broken rows leave every feature up to it as it was."""
    cutoff = datetime(2025, 12, 1)
    before = (HARD_RAW + random_raw).arrived_by(AS_OF)
    appended = Mutation(before, cutoff, seed).build()
    old, new = World(before.tables), World((before + appended).tables)
    moments = [moment for moment in snapshots(old, AS_OF) if moment <= cutoff]
    kept = expected_features(old, old.customers, moments)
    lines = differences(expected_features(new, new.customers, moments), kept)
    assert len(kept) > 500 and not lines, report(lines)
    assert expected_features(new, new.customers, [AS_OF]) != expected_features(old, old.customers, [AS_OF])


@pytest.mark.parametrize("day", [D, datetime(2025, 12, 1), datetime(2025, 12, 31)])
def test_a_snapshot_taken_that_day_is_the_one_rebuilt_later(random_raw: RawData, day: datetime) -> None:
    """From the rows that had landed by a midnight, and from all rows: the same features at that midnight."""
    everything = HARD_RAW + random_raw
    then, now = World(everything.arrived_by(day).tables), World(everything.tables)
    taken = expected_features(then, then.customers, [day])
    lines = differences(taken, expected_features(now, now.customers, [day]))
    assert taken and not lines, report(lines)


def test_comparison_sees_the_last_bit() -> None:
    """The comparison of doubles tells 0.1 + 0.2 from 0.3, 0.0 from -0.0 and 1 from 1.0; the report names
    the place.
    """
    assert same(0.3, 0.3) and not same(0.1 + 0.2, 0.3)
    assert not same(0.0, -0.0)
    assert not same(1, 1.0)
    lines = differences({("a", D): {"x": 1.0}, ("b", D): {}}, {("a", D): {"x": 2.0}, ("c", D): {}})
    assert [line.split(":")[0] for line in lines] == ["b at 2025-10-06", "c at 2025-10-06", "a at 2025-10-06"]


def test_grace_of_arrival() -> None:
    """The builder's nightly loads land within the grace, so that a default row is known when it happens."""
    raw = RawData()
    raw.customer("c")
    raw.event("e", "c", D - US)
    assert raw.tables["raw_app_events"][0]["loaded_at"] == D + timedelta(hours=2) < D + GRACE
    assert (features(World(raw.tables), "c", D) or {})["login_count_7d"] == 1
