"""The weekly loop: every chunk of customers lives through a week, and the rows of that week stream to the
writer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from simulator.behaviour import move, outlook_of, summer_pause, transition_matrix
from simulator.config import DAY, HEALTHY, HOUR, LAPSED, THRIVING, WEEK, Config, microseconds
from simulator.contacts import agree_to_terms, agreements, call, get_acquainted, use_the_app
from simulator.customers import Customers, days_without_lesson, enrol
from simulator.delivery import Dispatcher, size, take
from simulator.lessons import Effects, Week, book_first, book_recurring, chance_kept, resolve, split_due
from simulator.payments import bill
from simulator.randomness import WEEK_OF_CHUNK, WEEK_OF_MARKET, generator
from simulator.supply import deliver_joined, deliver_opening, deliver_supply, lessons_by_subject, scarcity
from simulator.truth import true_risks
from simulator.tutors import Tutors, hire
from simulator.writer import Batch, DatasetWriter

RECONCILIATION_WEEKS = 3
"""Final rows are sent once more this many weeks later: by then no later version of them can be on its way."""


def weeks_of(config: Config) -> int:
    """Weeks to simulate: all that begin before the last night's load is over."""
    last = microseconds(config.end) + config.delivery.quiet_until_hour * HOUR
    return -(-(last - microseconds(config.first_week)) // WEEK)


def simulate(
    config: Config, directory: Path, overwrite: bool = False, progress: Callable[[str], None] = lambda _: None
) -> dict[str, int]:
    """Writes all tables and the truth below ``directory``; returns rows by table.

    ``progress`` is called with a short text after each of ``weeks_of(config)`` weeks. Raises
    FileExistsError when the directory is not empty and ``overwrite`` is off.
    """
    with DatasetWriter(directory, overwrite) as writer:
        writer.note(config.arguments())
        run = Simulation(config, writer)
        for week in range(weeks_of(config)):
            run.live(week)
            progress(str(run.monday(week)))
    return writer.rows


class Simulation:
    """State of a run between weeks: customers, tutors, open lessons by chunk, and what will be reconciled."""

    def __init__(self, config: Config, writer: DatasetWriter) -> None:
        self.config = config
        self.writer = writer
        self.tutors: Tutors = hire(config)
        self.customers: Customers = enrol(config)
        self.agreed_at = agreements(config, self.customers)
        self.dispatcher = Dispatcher(config, self.customers, writer)
        size_ = config.chunk_customers
        self.chunks = list(range(0, max(self.customers.count, 1), size_))
        self.open_lessons: dict[int, list[Batch]] = {low: [] for low in self.chunks}
        self.booked_by_subject = np.zeros(20)
        self.reconcile: dict[str, list[tuple[int, Batch]]] = {
            table: [] for table in ("raw_sessions", "raw_calls", "raw_payments", "raw_app_events")
        }
        self.origin = microseconds(config.first_week)

    def monday(self, week: int) -> date:
        """First day of a run week."""
        return self.config.first_week + timedelta(days=7 * week)

    def live(self, number: int) -> None:
        """Simulates one week for everybody and delivers its rows."""
        starts = self.origin + number * WEEK
        self.writer.close_before(starts // DAY)
        market_rng = generator(self.config.seed, WEEK_OF_MARKET, number, 1)
        if number == 0:
            deliver_opening(self.dispatcher, market_rng, self.tutors, microseconds(self.config.start))
        deliver_joined(self.dispatcher, market_rng, self.tutors, starts)
        shortage = scarcity(self.tutors, self.booked_by_subject, starts)
        booked_by_tutor = np.zeros(self.tutors.count)
        self.booked_by_subject = np.zeros(20)
        kept: dict[str, list[Batch]] = {table: [] for table in self.reconcile}
        for low in self.chunks:
            self._live_chunk(number, starts, low, shortage, booked_by_tutor, kept)
        deliver_supply(self.config, self.dispatcher, self.tutors, number, starts, booked_by_tutor)
        self._audit_profiles(number, starts, market_rng)
        self._reconcile(number, starts, market_rng, kept)

    def _live_chunk(
        self,
        number: int,
        starts: int,
        low: int,
        shortage: np.ndarray,
        booked_by_tutor: np.ndarray,
        kept: dict[str, list[Batch]],
    ) -> None:
        config, people = self.config, self.customers
        high = min(low + config.chunk_customers, people.count)
        rng = generator(config.seed, WEEK_OF_CHUNK, number, low // config.chunk_customers)
        begin, end = low + np.searchsorted(people.signed_up_at[low:high], [starts, starts + WEEK])
        if end == low:
            return
        present = low + np.flatnonzero(~people.gone[low:begin])
        new = np.arange(begin, end)
        everyone = np.concatenate([present, new])
        monday = self.monday(number)
        week = Week(
            config,
            people,
            self.tutors,
            self.dispatcher,
            rng,
            number,
            monday,
            starts,
            shortage,
            low,
            high - low,
        )
        effects = Effects.none(high - low)
        due, rest = split_due(self.open_lessons[low], starts + WEEK)
        if len(present):
            self._change_state(week, present, due)
        if len(new):
            rest.append(self._welcome(week, new))
            due_now, rest = split_due(([due] if due is not None else []) + rest, starts + WEEK)
            due = due_now
        if due is not None:
            kept["raw_sessions"].append(resolve(week, due, effects))
            booked_by_tutor += np.bincount(due["tutor_id"] - 1, minlength=self.tutors.count)
            self.booked_by_subject += lessons_by_subject(due["subject"])
        upcoming = book_recurring(week, everyone, effects)
        if upcoming is not None:
            rest.append(upcoming)
        self.open_lessons[low] = rest
        for table, rows in (
            ("raw_payments", bill(week, everyone, effects)),
            ("raw_app_events", use_the_app(week, present, due)),
            ("raw_calls", call(week, present, effects)),
        ):
            if rows is not None:
                kept[table].append(rows)
        agree_to_terms(week, self.agreed_at)
        self._learn(week, everyone, effects)

    def _change_state(self, week: Week, present: np.ndarray, due: Batch | None) -> None:
        """Writes the truth of this Monday, then lets the week's causes move the latent states."""
        config, people, rng = self.config, self.customers, week.rng
        outlook = outlook_of(people, present)
        booked = np.zeros(week.people)
        if due is not None:
            booked = np.bincount(due["who"] - week.low, minlength=week.people)
        kept_by_state = np.tile(chance_kept(config, np.arange(4)), (len(present), 1))
        away = people.paused_until[present] > week.number
        kept_by_state[away] = 0.05
        hazard, risk_14, risk_30 = true_risks(
            config,
            outlook,
            week.monday,
            days_without_lesson(people, present, week.starts),
            people.paused_until[present] - week.number,
            booked[present - week.low],
            people.busy_until[present] - week.number,
            kept_by_state,
        )
        if week.starts <= microseconds(config.end):
            self.writer.add(
                "truth",
                {
                    "customer_id": present + 1,
                    "week_start": np.full(len(present), week.starts),
                    "latent_state": outlook.state,
                    "lapse_hazard": hazard,
                    "true_churn_risk_14d": risk_14,
                    "true_churn_risk_30d": risk_30,
                },
                by="week_start",
            )
        matrix = transition_matrix(config, outlook, week.monday, outlook.trouble.astype(np.float64))
        state = move(rng, matrix, outlook.state)
        state = np.where(away, outlook.state, state).astype(np.int8)  # a pause changes nothing
        people.state[present] = state
        people.weeks_lapsed[present] = np.where(state == LAPSED, people.weeks_lapsed[present] + 1, 0)
        returned = present[(outlook.state == LAPSED) & (state != LAPSED)]
        people.lessons_done[returned] = np.minimum(people.lessons_done[returned], 1)  # a new goal
        people.trouble[returned] = 0
        people.gone[present] = people.weeks_lapsed[present] > config.moves.gone_after_weeks
        summer_pause(config, rng, people, present, week.monday, week.number)
        self._change_profiles(week, present)

    def _change_profiles(self, week: Week, who: np.ndarray) -> None:
        """New profile versions: tiers move with the mood, grades in August."""
        people, rng = self.customers, week.rng
        state = people.state[who]
        up = (rng.random(len(who)) < np.where(state == THRIVING, 0.006, 0.001)) & (people.tier[who] < 2)
        down = (rng.random(len(who)) < np.where(state > HEALTHY, 0.007, 0.0015)) & (people.tier[who] > 0)
        up &= (people.tier[who] >= 0) & (state != LAPSED)
        down &= state != LAPSED
        people.tier[who] += np.where(up, 1, np.where(down, -1, 0)).astype(np.int8)
        graded = np.zeros(len(who), dtype=bool)
        if week.monday.month == 8 and 8 <= week.monday.day <= 14:
            grade = people.grade[who]
            chance = np.array([0.2, 0.33, 0.18, 0.0, 0.0])[grade]
            graded = rng.random(len(who)) < chance
            people.grade[who[graded]] += 1
        changed = who[(up | down | graded) & ~people.gone[who]]
        if len(changed):
            people.profile_updated_at[changed] = np.maximum(
                week.starts + (rng.random(len(changed)) * 7 * 86_400).astype(np.int64) * 1_000_000,
                people.profile_updated_at[changed] + 8 * DAY,
            )
            self._send_profiles(week.rng, changed, None)

    def _send_profiles(self, rng: np.random.Generator, who: np.ndarray, loaded_at: np.ndarray | None) -> None:
        people = self.customers
        updated = people.profile_updated_at[who]
        self.dispatcher.send(
            rng,
            "raw_customers",
            {
                "customer_id": who + 1,
                "signed_up_at": people.signed_up_at[who],
                "subscription_tier": people.tier[who],
                "acquisition_channel": people.channel[who],
                "grade_level": people.grade[who],
                "updated_at": updated,
                "loaded_at": self.dispatcher.loaded_at(rng, updated) if loaded_at is None else loaded_at,
            },
        )

    def _welcome(self, week: Week, new: np.ndarray) -> Batch:
        """Signs up the customers ``new``: a profile, a tutor, a first lesson (most of them) and some
        curiosity.
        """
        people, rng = self.customers, week.rng
        self._send_profiles(rng, new, None)
        people.tutor[new] = self.tutors.choose(rng, people.subject[new], week.starts)
        people.waiting_for_first[new] = True
        get_acquainted(week, new)
        never = rng.random(len(new)) < self.config.marketplace.never_books_share
        people.state[new[never]] = LAPSED
        return book_first(week, new[~never])

    def _learn(self, week: Week, who: np.ndarray, effects: Effects) -> None:
        """Turns the week's events into trouble, and trouble into tutor switches."""
        people, rng, moves = self.customers, week.rng, self.config.moves
        local = who - week.low
        trouble = people.trouble[who] * moves.trouble_memory
        trouble += (
            moves.trouble_bad_lesson * np.minimum(effects.bad[local], 2)
            + moves.trouble_let_down * effects.let_down[local]
            + moves.trouble_failed_payment * np.minimum(effects.failed_payments[local], 3)
            + moves.trouble_no_slot * effects.no_slot[local]
        )
        people.trouble[who] = trouble
        state = people.state[who]
        switches = np.where(effects.bad[local] > 0, 0.22, 0.006) + np.where(state > HEALTHY, 0.03, 0.0)
        switches = np.where(effects.let_down[local] > 0, switches + 0.08, switches)
        switches = np.where((state == LAPSED) | people.waiting_for_first[who], 0.0, switches)
        leaves_tutor = who[rng.random(len(who)) < switches]
        if len(leaves_tutor):
            people.tutor[leaves_tutor] = self.tutors.choose(rng, people.subject[leaves_tutor], week.starts)
            people.match[leaves_tutor] = rng.standard_normal(len(leaves_tutor))

    def _audit_profiles(self, number: int, starts: int, rng: np.random.Generator) -> None:
        """Every night the customer system sends a few old profiles again, unchanged."""
        people = self.customers
        known = int(np.searchsorted(people.signed_up_at, starts - 10 * DAY))
        if known == 0:
            return
        for night in range(7):
            count = 4 + int(known * self.config.delivery.audit_share)
            who = np.unique(rng.integers(0, known, count * 3))
            rng.shuffle(who)
            who = who[people.profile_updated_at[who] < starts - 10 * DAY][:count]
            landed = starts + night * DAY + 3 * HOUR + (rng.random(len(who)) * HOUR).astype(np.int64)
            self._send_profiles(rng, who, landed)

    def _reconcile(
        self, number: int, starts: int, rng: np.random.Generator, kept: dict[str, list[Batch]]
    ) -> None:
        """Every night each source sends one old final row again, so that a quiet night has a delivery too."""
        for table, queue in self.reconcile.items():
            parts = [part for part in kept[table] if size(part)]
            if parts:
                queue.append((number, parts[0]))
            while len(queue) > 1 and queue[1][0] <= number - RECONCILIATION_WEEKS:
                queue.pop(0)
            if not queue or queue[0][0] > number - RECONCILIATION_WEEKS:
                continue
            rows = queue[0][1]
            nights = take(rows, np.arange(7) % size(rows))
            nights["loaded_at"] = (
                starts + np.arange(7) * DAY + 4 * HOUR + rng.integers(0, 3600, 7) * 1_000_000
            )
            self.dispatcher.send(rng, table, nights, breakable=False)
