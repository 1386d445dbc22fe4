"""Labels, night by night: each night they are those of the slow reference, to the last bit, and a night
computes only rows that something can have changed.

Every case is a customer about whom something came late or was corrected when the labels of D were mature.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from conftest import Warehouse, dbt_build
from raw_data import DAY, HOUR, US, D, RawData, case_anchor
from reference import LABELS, World
from reference.comparison import Key, differences, report
from reference.labels import labels
from test_increments import killed_at

OPTIONS = ("--exclude-resource-type", "test", "unit_test")
LENIENT = {"max_rejected_share": 1}

#: the first build, when all labels of D are mature; the nights after it, of which one is missed
BEFORE = D + 62 * DAY
CORRECTED, FRESH, MISSED, LAST = (BEFORE + days * DAY for days in (1, 2, 3, 4))
#: a customer each for these, and nothing new about them
BYSTANDERS = [f"bystander_{number}" for number in range(8)]
HORIZONS = (21, 28, 30, 44, 60)

Row = dict[str, Any]


def regular(raw: RawData, name: str) -> list[Row]:
    """A customer with a session, rated, a call and a payment each week until the first build."""
    raw.customer(name)
    sessions = []
    for week in range(-6, 9):
        at = D + week * 7 * DAY + 10 * HOUR
        sessions.append(raw.session(f"{name}_{week}", name, at, rating=5, rated_at=at + HOUR))
        raw.call(f"{name}_{week}", name, at)
        raw.payment(f"{name}_{week}", name, at, "10.00")
    return sessions


def newcomer(raw: RawData, name: str, at: datetime, rated_at: datetime | None = None) -> Row:
    """A customer whose only session is at this moment."""
    raw.customer(name, D - 10 * DAY)
    return raw.session(f"{name}_s", name, at, rating=rated_at and 5, rated_at=rated_at)


@dataclass
class Story:
    """The rows of all nights, and the label that each correction changes: (customer, D's label)."""

    raw: RawData = field(default_factory=RawData)
    changed: dict[str, str] = field(default_factory=dict)


def story() -> Story:
    """Everything that happens, each row with the time when it lands."""
    told = Story()
    raw, changed = told.raw, told.changed
    case_anchor(raw)
    for name in BYSTANDERS:
        regular(raw, name)
        raw.event(f"{name}_late", name, D + DAY, loaded_at=CORRECTED + HOUR)  # late, and in no label
        at = CORRECTED - 5 * HOUR  # not late
        raw.session(f"{name}_fresh", name, at, loaded_at=CORRECTED + HOUR, rating=1, rated_at=at)

    def corrects(name: str, label: str, row: Row, table: str = "raw_sessions", **changes: Any) -> None:
        raw.again(table, row, CORRECTED + HOUR, **changes)
        changed[name] = label

    # a version that says the same again changes nothing
    raw.again("raw_sessions", regular(raw, "repeated")[7], CORRECTED + HOUR, duration_minutes=45)

    health, velocity = "label_health_score", "label_session_velocity"
    corrects("tutor_alone", health, regular(raw, "tutor_alone")[7], tutor_id="another_tutor")
    regular(raw, "unrated")
    row = raw.session("unrated_s", "unrated", D + DAY, rating=1, rated_at=D + DAY)
    corrects("unrated", health, row, rating=None, rated_at=None)
    corrects("rated_otherwise", health, regular(raw, "rated_otherwise")[7], rating=1)
    corrects("not_completed", velocity, regular(raw, "not_completed")[7], status="no_show")
    moved = regular(raw, "moved_from")[7]
    regular(raw, "moved_to")
    corrects("moved_from", velocity, moved, customer_id="moved_to")
    changed["moved_to"] = velocity
    payment = raw.payment("failing_p", "failing", D + DAY, "5.00")
    regular(raw, "failing")
    corrects("failing", health, payment, "raw_payments", status="failed")

    # the first session alone: its rating, and the time of day of its rating, which leaves no trace in sums
    first = "label_first_session_success"
    corrects("first_rating", first, newcomer(raw, "first_rating", D + DAY, D + 2 * DAY), rating=1)
    at = D + DAY + 12 * HOUR
    timely = newcomer(raw, "first_time", at, at + 7 * DAY)
    corrects("first_time", first, timely, rated_at=at + 7 * DAY + US)

    # the last moment that each label looks at
    row = newcomer(raw, "edge_first", D + 14 * DAY - US)
    corrects("edge_first", first, row, rating=5, rated_at=D + 21 * DAY - US)
    for name, at, label in (
        ("edge_velocity", D + 28 * DAY - US, velocity),
        ("edge_lapse_14d", D + 44 * DAY - US, "label_churn_risk_14d"),
        ("edge_lapse_30d", D + 60 * DAY - US, "label_churn_risk_30d"),
    ):
        newcomer(raw, name, at - 30 * DAY)
        raw.session(f"{name}_late", name, at, loaded_at=CORRECTED + HOUR)
        changed[name] = label
    raw.session("edge_lapse_30d_0", "edge_lapse_30d", D + 5 * DAY)
    newcomer(raw, "edge_health", D + DAY)
    raw.call("edge_health_c", "edge_health", D + 30 * DAY - US, loaded_at=CORRECTED + HOUR)
    changed["edge_health"] = health

    # without a session before, a lapse begins at the signup; one that was corrected may lie far ahead
    customer = raw.customer("signup", D - 10 * DAY)
    raw.session("signup_s", "signup", D + 25 * DAY)
    corrects("signup", "label_churn_risk_14d", customer, "raw_customers", signed_up_at=D - 4 * DAY)
    customer = raw.customer("signup_ahead", D - 10 * DAY)
    raw.again("raw_customers", customer, CORRECTED + HOUR, signed_up_at=D + 35 * DAY)
    raw.session("signup_ahead_s", "signup_ahead", FRESH - 10 * HOUR)

    # a customer whose rows waited in the quarantine, and one who is new
    raw.customer("waited", D - 10 * DAY, loaded_at=CORRECTED + HOUR)
    raw.session("waited_s", "waited", D + DAY)
    raw.customer("new", CORRECTED - 9 * HOUR)
    # something late in the night that is missed, and in the one that is killed
    for name, night in (("late_missed", MISSED), ("late_last", LAST)):
        regular(raw, name)
        raw.call(f"{name}_c", name, D + 25 * DAY, loaded_at=night + HOUR)
    return told


@dataclass(frozen=True, repr=False)
class Nights:
    """The warehouse's labels after each build, beside what the reference expects of the same rows."""

    told: Story
    rows: list[tuple[datetime, dict[Key, Row]]]
    expected: list[dict[Key, Row]]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """A first build, a night of corrections, a quiet one, the same again, one that is missed, one that is
    killed at the labels and repeated; and at last the as-of date goes back and forth.
    """
    told, work = story(), tmp_path_factory.mktemp("label_nights")
    warehouse = Warehouse(work / "warehouse.duckdb")
    rows: list[tuple[datetime, dict[Key, Row]]] = []
    expected: list[dict[Key, Row]] = []
    before = None
    for night in (BEFORE, CORRECTED, FRESH, FRESH, LAST, FRESH, LAST):
        if before is None or night > before:
            told.raw.landed_between(before, night).write(work / "raw", name=f"{night:%Y-%m-%d}")
            before = night
        if night == LAST and len(rows) == 4:
            for model in ("int_label_outcomes", "customer_labels"):
                killed_at(model, work / "raw", work, as_of=night)
        dbt_build(work / "raw", work, options=OPTIONS, as_of=night, **LENIENT)
        found = warehouse.keyed("labels.customer_labels")
        world = World(told.raw.arrived_by(before).tables)
        rows.append((night, found))
        expected.append({key: labels(world, *key, night) for key in found})
        features = warehouse.rows("select customer_id, feature_timestamp from features.customer_features")
        assert {(row["customer_id"], row["feature_timestamp"]) for row in features} == found.keys()
    return Nights(told, rows, expected)


def test_labels_of_each_night(nights: Nights) -> None:
    """The five labels are those of the reference, in every night."""
    for (night, found), expected in zip(nights.rows, nights.expected, strict=True):
        labelled = {key: {name: row[name] for name in LABELS} for key, row in found.items()}
        lines = differences(labelled, expected)
        assert not lines, f"{night}: {report(lines)}"


def test_each_correction_matters(nights: Nights) -> None:
    """Each case changes its label of D, so that a night that overlooks it cannot pass."""
    before, after = nights.expected[0], nights.expected[1]
    for customer, label in nights.told.changed.items():
        assert before[customer, D][label] != after[customer, D][label], (customer, label)
    for customer, seen in {"signup_ahead": 1, "late_missed": 3, "late_last": 3}.items():
        assert nights.expected[seen][customer, D] != nights.expected[seen + 1][customer, D], customer


def computed(nights: Nights, number: int) -> dict[datetime, set[str]]:
    """The customers whose rows a build computed, by snapshot."""
    earlier = {row["recorded_in"] for row in nights.rows[number - 1][1].values()}
    found: dict[datetime, set[str]] = defaultdict(set)
    for (customer, at), row in nights.rows[number][1].items():
        if row["recorded_in"] not in earlier:
            found[at].add(customer)
    return found


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_night_computes_what_can_have_changed(nights: Nights, number: int) -> None:
    """All rows of new snapshots and of those with a label that became mature; else the corrected ones."""
    night, found = nights.rows[number]
    last = nights.rows[number - 1][0]
    late = {
        1: {*nights.told.changed, "signup_ahead"},
        2: {"signup_ahead"},
        4: {"late_missed", "late_last"},
    }[number]
    whole = {at for _, at in found if at > last or any(last < at + h * DAY <= night for h in HORIZONS)}
    for at, customers in computed(nights, number).items():
        if at in whole:
            assert customers == {customer for customer, moment in found if moment == at}
        else:
            assert customers <= late, at
    # in the last of them a label of old became mature, too
    assert number != 4 or any(at < last for at in whole)


def test_a_repeated_night_computes_nothing(nights: Nights) -> None:
    """Not a row is written again."""
    assert nights.rows[3][1] == nights.rows[2][1]


def test_the_as_of_date_may_go_back(nights: Nights) -> None:
    """Then every row is computed, for labels may have become immature; and they ripen again."""
    assert {row["as_of"] for row in nights.rows[5][1].values()} == {FRESH.date()}
    assert nights.expected[5] != nights.expected[4]
    assert nights.expected[6] == nights.expected[4]
