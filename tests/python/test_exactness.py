"""Warehouses built by dbt against the slow reference, to the last bit.

Few warehouses, each compared in full: one with every hard case and many random worlds, the same with rows
appended that must change nothing, the same again built day by day, one whose sources lack `loaded_at`, one
simulated. Each is built once, also under pytest-xdist.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Warehouse, dbt_build
from raw_data import AS_OF, DAY, FIRST_SNAPSHOT, HOUR, D, Mutation, RawData, hard_cases, random_worlds
from reference import FEATURES, LABELS, World, default_as_of, health_index_of_features, read_raw, snapshots
from reference.comparison import (
    Key,
    Record,
    differences,
    expected_features,
    expected_labels,
    rejected_differences,
    report,
)

FEATURE_TABLE = "features.customer_features"
#: without what says when a row was computed: that differs between runs
LABEL_TABLE = "(select * exclude (as_of, recorded_in) from labels.customer_labels)"
REJECTED = "select source_table, primary_key, reason, row_json, loaded_at from quarantine.rejected_rows"

#: the last week before AS_OF gets a snapshot a day, as nightly runs leave them
WEEK = [AS_OF - days * DAY for days in range(7, -1, -1)]
#: many broken rows are the point of these data sets
LENIENT = {"max_rejected_share": 1}
#: where a data set is built many times, its dbt tests need not run each time
MODELS_ONLY = ("--exclude-resource-type", "test", "unit_test")

MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@dataclass(frozen=True, repr=False)
class Built:
    """A raw data set, the warehouse that dbt made of it, and what the reference makes of it."""

    raw: RawData
    warehouse: Warehouse
    world: World
    as_of: datetime
    features: dict[Key, Record]
    labels: dict[Key, Record]

    def assert_features_exact(self) -> None:
        """The same keys, and the same 59 values to the last bit."""
        lines = differences(self.warehouse.keyed(FEATURE_TABLE), self.features)
        assert not lines, report(lines)

    def assert_labels_exact(self) -> None:
        """The same keys, labels and segments."""
        lines = differences(self.warehouse.keyed(LABEL_TABLE), self.labels)
        assert not lines, report(lines)

    def assert_rejected_rows_exact(self) -> None:
        """The same rejected rows, each with its reason, key, load and content."""
        lines = rejected_differences(self.warehouse.rows(REJECTED), self.world.judged.rejected)
        assert not lines, "\n".join(lines[:20])


def built(raw: RawData, work: Path, as_of: datetime, daily: datetime | None) -> Built:
    """The warehouse in a directory, and everything that the reference expects of it."""
    world = World(read_raw(work / "raw"))
    rows = expected_features(world, world.customers, snapshots(world, as_of, daily))
    labelled = expected_labels(world, rows, as_of)
    for key, row in labelled.items():
        row["health_index"] = health_index_of_features(rows[key])
    return Built(raw, Warehouse(work / "warehouse.duckdb"), world, as_of, rows, labelled)


# --- hard cases and random worlds, in one build -----------------------------------------------------------


@pytest.fixture(scope="session")
def nasty(made_once: MadeOnce) -> Built:
    """All hard cases and 30 random worlds, as they had landed by AS_OF, built in one go."""
    raw = (hard_cases()[0] + random_worlds(30, seed=1)).arrived_by(AS_OF)

    def make(work: Path) -> None:
        dbt_build(raw.write(work / "raw"), work, as_of=AS_OF, daily_snapshots_from=WEEK[0], **LENIENT)

    return built(raw, made_once("nasty", make), AS_OF, WEEK[0])


def test_features(nasty: Built) -> None:
    """Every customer in scope at every snapshot, and nobody else, with the reference's 59 features."""
    assert len(nasty.features) > 5_000
    nasty.assert_features_exact()


def test_hand_computed_features(nasty: Built) -> None:
    """What a person worked out for the hard cases, without the reference in between."""
    rows = nasty.warehouse.keyed(FEATURE_TABLE)
    expected = hard_cases()[1]
    wrong = [
        (expect.customer_id, f"{expect.at:%Y-%m-%d}", name, row and row[name], value)
        for expect in expected
        for row in [rows.get((expect.customer_id, expect.at))]
        for name, value in (expect.values or {"customer_tenure_days": None}).items()
        if (row is None) != (expect.values is None) or (row is not None and row[name] != value)
    ]
    assert len(expected) > 100 and not wrong, wrong


def test_labels_and_segments(nasty: Built) -> None:
    """A label row for each feature row, with the reference's labels; each label takes several values."""
    for label in [*LABELS, "segment"]:
        assert len({row[label] for row in nasty.labels.values()}) >= 3
    nasty.assert_labels_exact()


def test_rejected_rows(nasty: Built) -> None:
    """Each row that breaks the contract, with its first failing reason."""
    assert len({rejected.reason for rejected in nasty.world.judged.rejected}) == 7
    nasty.assert_rejected_rows_exact()


def test_families_are_the_features(nasty: Built) -> None:
    """The six family tables hold the 59 columns of customer_features, once each, with the same values."""
    rows = nasty.warehouse.keyed(FEATURE_TABLE)
    seen: list[str] = []
    for family in ("session", "call", "engagement", "payment", "tutor", "profile"):
        part = nasty.warehouse.keyed(f"features.customer_{family}_features")
        names = [name for name in next(iter(part.values())) if name in FEATURES]
        seen += names
        picked = {key: {name: row[name] for name in names} for key, row in rows.items()}
        mine = {key: {name: row[name] for name in names} for key, row in part.items()}
        lines = differences(mine, picked)
        assert not lines, f"{family}: {report(lines)}"
    assert sorted(seen) == sorted(FEATURES)


# --- nothing later, and nothing broken, changes a snapshot ------------------------------------------------


CUTOFF = datetime(2025, 12, 1)


@pytest.fixture(scope="session")
def mutated(nasty: Built, made_once: MadeOnce) -> Built:
    """The same raw files with a thousand more rows, none of which may change a snapshot up to CUTOFF."""
    raw = nasty.raw + Mutation(nasty.raw, CUTOFF, seed=7).build()
    # a signup corrected by months makes sessions before it look impossible; they were counted when they
    # arrived
    for name in ("tutor_many", "flip"):
        raw.customer(name, CUTOFF - 2 * DAY, loaded_at=CUTOFF + 9 * DAY)

    def make(work: Path) -> None:
        dbt_build(raw.write(work / "raw", seed=1), work, as_of=AS_OF, daily_snapshots_from=WEEK[0], **LENIENT)

    return built(raw, made_once("mutated", make), AS_OF, WEEK[0])


def test_nothing_later_changes_a_snapshot(nasty: Built, mutated: Built) -> None:
    """Every snapshot up to the cutoff has the same customers and the same bits as before the rows were
    appended.
    """
    before, after = nasty.warehouse.keyed(FEATURE_TABLE), mutated.warehouse.keyed(FEATURE_TABLE)
    kept = {key: row for key, row in before.items() if key[1] <= CUTOFF}
    lines = differences({key: row for key, row in after.items() if key[1] <= CUTOFF}, kept)
    assert len(kept) > 2_000 and not lines, report(lines)
    changed = [key for key, row in after.items() if key[1] > CUTOFF and row != before.get(key)]
    assert len(changed) > 500, "the appended rows should matter after the cutoff"


def test_features_after_mutation(mutated: Built) -> None:
    """The snapshots that the appended rows do change are the reference's, too."""
    mutated.assert_features_exact()


def test_labels_and_segments_after_mutation(mutated: Built) -> None:
    """So are the labels, with rows among the data that land after the as-of date."""
    mutated.assert_labels_exact()


def test_rejected_rows_after_mutation(mutated: Built) -> None:
    """So are the rejected rows."""
    mutated.assert_rejected_rows_exact()


# --- from scratch = day by day ----------------------------------------------------------------------------


MISSED, REPEATED, KILLED, TWICE = WEEK[3], WEEK[5], WEEK[2], WEEK[1]
#: some months of which only a few nights ran, each making up for the Mondays before it; then the week
NIGHTS = [FIRST_SNAPSHOT + weeks * 7 * DAY for weeks in (0, 3, 8, 9, 14)] + [
    night for night in WEEK if night != MISSED
]


@pytest.fixture(scope="session")
def day_by_day(nasty: Built, made_once: MadeOnce) -> Warehouse:
    """The same data set, landing night by night as new files in one directory; one night is missed, one
    repeated, one killed half way, and once everything is delivered a second time under other names.
    """

    def make(work: Path) -> None:
        directory, before = work / "raw", None
        for number, night in enumerate(NIGHTS):
            landed = nasty.raw.landed_between(before, night)
            landed.write(directory, seed=number, name=f"{night:%Y-%m-%d}")
            if night == TWICE:
                nasty.raw.arrived_by(night).write(directory, seed=99, name="everything-again")
            if night == KILLED:
                for last in ("base_calls", "int_customer_day_tiles", "int_customer_lifetime"):
                    dbt_build(
                        directory, work, select=[f"+{last}"], options=MODELS_ONLY, as_of=night, **LENIENT
                    )
            if night == REPEATED:  # the same name again, with the same rows in another order
                landed.write(directory, seed=number + 50, name=f"{night:%Y-%m-%d}")
                dbt_build(directory, work, options=MODELS_ONLY, as_of=night, **LENIENT)
                landed.write(directory, seed=number, name=f"{night:%Y-%m-%d}")
            dbt_build(directory, work, options=MODELS_ONLY, as_of=night, **LENIENT)
            before = night

    return Warehouse(made_once("day_by_day", make) / "warehouse.duckdb")


def test_day_by_day_features(nasty: Built, day_by_day: Warehouse) -> None:
    """Nightly runs leave the snapshots that a build from scratch has, bit for bit."""
    grown, fresh = day_by_day.keyed(FEATURE_TABLE), nasty.warehouse.keyed(FEATURE_TABLE)
    moments = {at for _, at in grown}
    assert moments | {MISSED} == {at for _, at in fresh}
    assert moments >= {*snapshots(nasty.world, AS_OF), *NIGHTS}
    lines = differences(grown, {key: row for key, row in fresh.items() if key[1] in moments})
    assert not lines, report(lines)


def test_day_by_day_labels(nasty: Built, day_by_day: Warehouse) -> None:
    """Labels of old snapshots have ripened to what a build from scratch says."""
    grown, fresh = day_by_day.keyed(LABEL_TABLE), nasty.warehouse.keyed(LABEL_TABLE)
    moments = {at for _, at in grown}
    assert moments | {MISSED} == {at for _, at in fresh}
    lines = differences(grown, {key: row for key, row in fresh.items() if key[1] in moments})
    assert not lines, report(lines)


def test_day_by_day_rejected_rows(nasty: Built, day_by_day: Warehouse) -> None:
    """So does the quarantine."""
    lines = rejected_differences(day_by_day.rows(REJECTED), nasty.world.judged.rejected)
    assert not lines, "\n".join(lines[:20])


# --- a file that arrives late -----------------------------------------------------------------------------


ARRIVES_LATE = AS_OF - 2 * DAY
#: the last night that was before it
NIGHT_BEFORE = ARRIVES_LATE - 22 * DAY
#: so long before the end of the data the snapshots are taken
BEHIND = 9 * DAY


def late_on_purpose() -> tuple[RawData, list[dict[str, Any]]]:
    """Customers about whom something comes late that changes what was said before, and the rows that are to
    arrive late. The last session of most belongs elsewhere than at the end of what is known of them.
    """
    raw = RawData()

    def on(day: int, hour: int) -> datetime:
        return NIGHT_BEFORE + day * DAY + hour * HOUR

    # Snapshots before the correction see all three sessions, those after it the first and the third.
    raw.customer("vanished")
    raw.session("vanished_1", "vanished", on(-20, 10))
    gone = raw.session("vanished_2", "vanished", on(-19, 10))
    raw.again("raw_sessions", gone, on(0, 2), status="no_show")
    late = [raw.session("vanished_3", "vanished", on(-15, 10), tutor_id="another")]

    # Known first, taken back before any snapshot saw it, and said again after the second one.
    raw.customer("said_again")
    said = raw.session("said_again_1", "said_again", on(-13, 10), tutor_id="another")
    unsaid = raw.again("raw_sessions", said, on(-12, 5), status="no_show")
    raw.again("raw_sessions", unsaid, on(0, 2), status="completed")
    late.append(raw.session("said_again_2", "said_again", on(-11, 10)))

    # The same, but both sessions are new in one night.
    raw.customer("both_new")
    raw.session("both_new_0", "both_new", on(-20, 10))
    said = raw.session("both_new_1", "both_new", on(0, 10), tutor_id="another")
    unsaid = raw.again("raw_sessions", said, on(1, 5), status="no_show")
    raw.again("raw_sessions", unsaid, on(12, 2), status="completed")
    raw.session("both_new_2", "both_new", on(2, 10))

    # Known at the same moment, so the id decides.
    raw.customer("same_moment")
    raw.session("same_moment_b", "same_moment", on(-20, 10))
    rated = {"rating": 2, "rated_at": on(-20, 9)}
    late.append(raw.session("same_moment_a", "same_moment", on(-20, 9), tutor_id="another", **rated))

    # A rating from before the last snapshot, of a session that stays what it was.
    raw.customer("rated_late")
    first = raw.session("rated_late_1", "rated_late", on(-20, 10))
    late.append(raw.again("raw_sessions", first, on(-18, 2), rating=5, rated_at=on(-19, 10)))

    # The first version is broken; until another one comes, the call seems to lie before the signup.
    raw.customer("signed_up_before", on(-50, 10), subscription_tier="gold")
    late.append(raw.customer("signed_up_before", on(-50, 10), updated_at=on(-49, 10)))
    raw.customer("signed_up_before", on(-31, 10))
    raw.call("signed_up_before_1", "signed_up_before", on(-45, 10))
    return raw, late


@dataclass(frozen=True, repr=False)
class Delayed:
    """A warehouse that some rows reached days after the moment that their `loaded_at` gives."""

    warehouse: Warehouse
    without: World
    world: World


@pytest.fixture(scope="session")
def delayed(made_once: MadeOnce) -> Delayed:
    """Random worlds in a few nights; a tenth of what landed before ARRIVES_LATE, and some customers as a
    whole, comes in files of that night only. It makes up for the Mondays of some weeks without a night. All
    snapshots are taken BEHIND the data, as they are while one feed is quiet: much of what a night reads takes
    effect only after them.
    """
    raw = (random_worlds(60, seed=900, prefix="late") + hard_cases()[0]).arrived_by(AS_OF)
    random = np.random.default_rng(3)
    names = sorted({row["customer_id"] for row in raw.tables["raw_customers"] if row["customer_id"]})
    late_customers = {name for name in names if random.random() < 0.1}
    late = {
        id(row)
        for table, rows in raw.tables.items()
        for row in rows
        if (row["loaded_at"] or D) < ARRIVES_LATE - 3 * DAY
        and (random.random() < 0.1 or (table == "raw_customers" and row["customer_id"] in late_customers))
    }
    awkward, late_rows = late_on_purpose()
    raw += awkward
    late |= {id(row) for row in late_rows}
    punctual = raw.where(lambda row: id(row) not in late)
    nights = [NIGHT_BEFORE + days * DAY for days in (-14, -13, 0)]
    nights += [ARRIVES_LATE + days * DAY for days in (0, 1, 2)]

    def make(work: Path) -> None:
        directory, before = work / "raw", None
        for number, night in enumerate(nights):
            punctual.landed_between(before, night).write(directory, seed=number, name=f"night-{number}")
            if night == ARRIVES_LATE:
                raw.where(lambda row: id(row) in late).write(directory, name="late")
            dbt_build(directory, work, options=MODELS_ONLY, as_of=night - BEHIND, **LENIENT)
            before = night

    work = made_once("delayed", make)
    return Delayed(Warehouse(work / "warehouse.duckdb"), World(punctual.tables), World(raw.tables))


def test_late_files_change_no_snapshot_before_and_all_after(delayed: Delayed) -> None:
    """Snapshots taken before the files came are those of a world without them. Those taken later know them
    all, whatever day they are of.
    """
    grown = delayed.warehouse.keyed(FEATURE_TABLE)
    moments = sorted({at for _, at in grown})
    before = [at for at in moments if at <= NIGHT_BEFORE - BEHIND]
    after = [at for at in moments if at > NIGHT_BEFORE - BEHIND]
    assert after[0] < ARRIVES_LATE - BEHIND
    expected = expected_features(delayed.without, delayed.without.customers, before)
    expected |= expected_features(delayed.world, delayed.world.customers, after)
    lines = differences(grown, expected)
    assert len(moments) > 10 and not lines, report(lines)


def test_late_files_are_judged_as_if_they_had_been_there(delayed: Delayed) -> None:
    """The quarantine holds what breaks the contract by now: rows whose customer came late have left it."""
    lines = rejected_differences(delayed.warehouse.rows(REJECTED), delayed.world.judged.rejected)
    assert not lines, "\n".join(lines[:20])
    waited = {repr(rejected.row) for rejected in delayed.without.judged.rejected} - {
        repr(rejected.row) for rejected in delayed.world.judged.rejected
    }
    assert len(waited) > 20


# --- sources without loaded_at ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def unloaded(made_once: MadeOnce) -> Built:
    """Random worlds whose customers, sessions and app events come from sources that have no loaded_at
    column.
    """
    raw = random_worlds(6, seed=500, prefix="bare")
    raw.customer("old", D - 1200 * DAY)  # a long tenure, and things that happened more than 999 days ago
    raw.event("old_l", "old", D - 1100 * DAY)
    raw.session("old_s", "old", D - 1000 * DAY)
    raw.call("old_c", "old", D - DAY)
    without = ["raw_customers", "raw_sessions", "raw_app_events"]

    def make(work: Path) -> None:
        dbt_build(raw.write(work / "raw", without_loaded_at=without), work, as_of=AS_OF, **LENIENT)

    return built(raw, made_once("unloaded", make), AS_OF, None)


def test_features_without_loaded_at(unloaded: Built) -> None:
    """Facts of such sources are known when they happen."""
    assert unloaded.features["old", D]["customer_tenure_days"] == 1200
    unloaded.assert_features_exact()


def test_labels_without_loaded_at(unloaded: Built) -> None:
    """Labels and segments from such sources."""
    unloaded.assert_labels_exact()


def test_rejected_rows_without_loaded_at(unloaded: Built) -> None:
    """Rejected rows of such sources; no event can be later than its load."""
    reasons = {r.reason for r in unloaded.world.judged.rejected if r.source_table == "raw_sessions"}
    assert "unknown_value" in reasons and "event_after_load" not in reasons
    unloaded.assert_rejected_rows_exact()


# --- simulated data ---------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Simulated:
    """A year of 300 simulated customers, and some hundred places to look at."""

    warehouse: Warehouse
    world: World
    as_of: datetime
    pairs: list[Key]


@pytest.fixture(scope="session")
def simulated(made_once: MadeOnce) -> Simulated:
    """The simulator's data, built without any variable, as `dbt build` on its own does."""

    def make(work: Path) -> None:
        options = ["--customers", "300", "--seed", "1", "--start", "2025-07-01", "--end", "2026-07-01"]
        command = [sys.executable, "-m", "simulator", *options, "--out", str(work / "raw")]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr[-3000:]
        dbt_build(work / "raw", work)

    work = made_once("simulated", make)
    raw = read_raw(work / "raw")
    world, as_of = World(raw), default_as_of(raw)
    random = np.random.default_rng(0)
    customers, moments = world.customers, snapshots(world, as_of)
    pairs = {(customers[random.integers(len(customers))], moments[i % len(moments)]) for i in range(600)}
    return Simulated(Warehouse(work / "warehouse.duckdb"), world, as_of, sorted(pairs))


def test_snapshots_of_simulated_data(simulated: Simulated) -> None:
    """Without any variable the snapshots are the Mondays up to the last midnight by which all tables had
    landed.
    """
    rows = simulated.warehouse.rows(f"select distinct feature_timestamp as at from {FEATURE_TABLE}")
    assert sorted(row["at"] for row in rows) == snapshots(simulated.world, simulated.as_of)


def test_features_of_simulated_data(simulated: Simulated) -> None:
    """Some hundred random customers and snapshots, in scope or not."""
    actual = simulated.warehouse.keyed(FEATURE_TABLE)
    expected = {
        (customer, at): row
        for customer, at in simulated.pairs
        for row in expected_features(simulated.world, [customer], [at]).values()
    }
    lines = differences({key: actual[key] for key in simulated.pairs if key in actual}, expected)
    assert len(expected) > 200 and not lines, report(lines)


def test_labels_of_simulated_data(simulated: Simulated) -> None:
    """Labels and segments there."""
    actual = simulated.warehouse.keyed(LABEL_TABLE)
    expected: dict[Key, Record] = {}
    for customer, at in simulated.pairs:
        rows = expected_features(simulated.world, [customer], [at])
        labelled = expected_labels(simulated.world, rows, simulated.as_of)
        expected |= {
            key: {**row, "health_index": health_index_of_features(rows[key])} for key, row in labelled.items()
        }
    lines = differences({key: actual[key] for key in simulated.pairs if key in actual}, expected)
    assert len(expected) > 200 and not lines, report(lines)


def test_rejected_rows_of_simulated_data(simulated: Simulated) -> None:
    """The simulator's few broken rows, all of them."""
    lines = rejected_differences(simulated.warehouse.rows(REJECTED), simulated.world.judged.rejected)
    assert not lines, "\n".join(lines[:20])
