"""Lessons: recurring weekly slots, bookings, confirmations, outcomes, ratings and corrections."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from simulator.behaviour import slots_wanted
from simulator.config import (
    AT_RISK,
    CANCELLED_BY_CUSTOMER,
    CANCELLED_BY_TUTOR,
    COMPLETED,
    DAY,
    HEALTHY,
    HOUR,
    MINUTE,
    NO_SHOW,
    NULL_INTEGER,
    NULL_TIME,
    SCHEDULED,
    THRIVING,
    WEEK,
    Config,
)
from simulator.customers import Customers
from simulator.delivery import Dispatcher, join, size, take
from simulator.randomness import rank_within
from simulator.school_calendar import exam_season, lessons_factor
from simulator.tutors import Tutors
from simulator.writer import TABLES, Batch

SESSION_COLUMNS = [column.name for column in TABLES["raw_sessions"]]
CHANNEL_FIT = np.array([0.25, -0.2, -0.8, 0.8, 0.0])  # last: unknown channel
GRADE_FIT = np.array([0.3, -0.2, 0.0, 0.2, 0.0])


@dataclass
class Week:
    """What one chunk of customers needs to live through one week; times are microseconds."""

    config: Config
    customers: Customers
    tutors: Tutors
    dispatcher: Dispatcher
    rng: np.random.Generator
    number: int
    monday: date
    starts: int
    scarcity: np.ndarray
    """Chance by subject that a customer who looks for a slot finds none."""
    low: int
    """Index of the chunk's first customer."""
    people: int
    """Customers in the chunk."""


@dataclass
class Effects:
    """What happened to each customer of the chunk in a week: counts (float32) by index within the chunk."""

    lessons: np.ndarray
    completed: np.ndarray
    bad: np.ndarray
    let_down: np.ndarray
    failed_payments: np.ndarray
    no_slot: np.ndarray
    first_failed: np.ndarray

    @classmethod
    def none(cls, people: int) -> Effects:
        """No effects for a chunk of ``people``."""
        return cls(*(np.zeros(people, dtype=np.float32) for _ in range(7)))


def book(
    week: Week, who: np.ndarray, scheduled_at: np.ndarray, booked_at: np.ndarray, tutor: np.ndarray
) -> Batch:
    """Books lessons for customers ``who`` (indices, equal ones adjacent): delivers bookings and
    confirmations.

    Returns the open lessons: the table's columns, ``who``, ``own`` (the regular tutor) and
    ``response_hours``.
    """
    rng, people = week.rng, week.customers
    n = len(who)
    sequence = people.session_sequence[who] + rank_within(who)
    people.session_sequence[who] = sequence + 1
    response = week.tutors.response_hours[tutor] * np.exp(0.5 * rng.standard_normal(n))
    confirmed_at = booked_at + (response * HOUR).astype(np.int64)
    answered = (confirmed_at <= scheduled_at - HOUR // 2) & (rng.random(n) > 0.02)
    empty = np.full(n, NULL_TIME, dtype=np.int64)
    lessons: Batch = {
        "session_id": (who.astype(np.int64) + 1) * 10_000 + sequence,
        "customer_id": who.astype(np.int64) + 1,
        "tutor_id": tutor.astype(np.int64) + 1,
        "subject": people.subject[who].copy(),
        "booked_at": booked_at,
        "confirmed_at": empty.copy(),
        "scheduled_at": scheduled_at,
        "status": np.full(n, SCHEDULED, dtype=np.int8),
        "resolved_at": empty.copy(),
        "duration_minutes": np.full(n, NULL_INTEGER, dtype=np.int64),
        "rating": np.full(n, NULL_INTEGER, dtype=np.int64),
        "rated_at": empty,
        "updated_at": booked_at.copy(),
    }
    lessons["loaded_at"] = week.dispatcher.loaded_at(rng, booked_at)
    send(week, lessons)
    confirmed = take(lessons, answered)
    confirmed["confirmed_at"] = confirmed_at[answered]
    confirmed["updated_at"] = confirmed["confirmed_at"].copy()
    confirmed["loaded_at"] = week.dispatcher.loaded_at(rng, confirmed["confirmed_at"], confirmed["loaded_at"])
    send(week, confirmed)
    lessons["confirmed_at"] = np.where(answered, confirmed_at, NULL_TIME)
    lessons["loaded_at"] = lessons["loaded_at"].copy()
    lessons["loaded_at"][answered] = confirmed["loaded_at"]
    lessons["who"] = who.astype(np.int64)
    lessons["own"] = tutor == people.tutor[who]
    lessons["response_hours"] = np.where(answered, response, 30.0)
    return lessons


def send(week: Week, lessons: Batch) -> None:
    """Delivers one version of each lesson."""
    week.dispatcher.send(week.rng, "raw_sessions", {name: lessons[name] for name in SESSION_COLUMNS})


def book_first(week: Week, who: np.ndarray) -> Batch:
    """First lessons of customers who signed up this week: the platform finds a slot within two weeks."""
    rng, people = week.rng, week.customers
    n = len(who)
    booked = people.signed_up_at[who] + (
        np.exp(np.log(20) + rng.standard_normal(n)).clip(0.2, 120) * HOUR
    ).astype(np.int64)
    wait = 1.5 + rng.gamma(2.2, 2.4, n).clip(0, 12)
    wait = wait + 5 * (
        rng.random(n) < week.scarcity[people.subject[who]]
    )  # no slot in the subject: wait longer
    scheduled = (booked + (wait * DAY).astype(np.int64)) // DAY * DAY + people.slot_time[who, 0]
    people.busy_until[who] = (scheduled - week.starts) // WEEK + week.number
    return book(week, who, scheduled, booked, people.tutor[who])


def book_recurring(week: Week, who: np.ndarray, effects: Effects) -> Batch | None:
    """Lessons of the next week for the customers ``who`` (ascending indices), slot by slot.

    Someone who looks for a new slot in a scarce subject finds none and says so in ``effects``.
    """
    rng, people = week.rng, week.customers
    attendance = week.config.attendance
    state = people.state[who]
    # a family on a break books nothing, but for the week in which it returns
    open_for = (people.paused_until[who] <= week.number + 1) & (people.busy_until[who] <= week.number)
    looks = (state == AT_RISK) & (rng.random(len(who)) < 0.25)
    none_found = looks & open_for & (rng.random(len(who)) < week.scarcity[people.subject[who]])
    effects.no_slot[who[none_found] - week.low] += 1
    open_for &= ~none_found
    factor = lessons_factor(date.fromordinal(week.monday.toordinal() + 7))
    more = exam_season(date.fromordinal(week.monday.toordinal() + 7))
    chosen_who, chosen_slot = [], []
    wished = people.lessons_wished[who]
    slots = np.select(
        [state == THRIVING, state == HEALTHY, state == AT_RISK],
        [slots_wanted(wished, THRIVING), slots_wanted(wished, HEALTHY), slots_wanted(wished, AT_RISK)],
        0,
    )
    extra = np.where((state == HEALTHY) & (wished >= 3), attendance.extra_lesson, 0.0) + 0.15 * more
    slots = slots + ((rng.random(len(who)) < extra) & (slots > 0) & (slots < people.slot_day.shape[1]))
    chance = np.array(attendance.books_slot)[state] * min(factor, 1.0)
    chance = np.where(
        people.waiting_for_first[who] & (state == AT_RISK), attendance.books_first * min(factor, 1.0), chance
    )
    for slot in range(people.slot_day.shape[1]):
        books = open_for & (slot < slots) & (rng.random(len(who)) < chance)
        chosen_who.append(who[books])
        chosen_slot.append(np.full(int(books.sum()), slot))
    booking = np.concatenate(chosen_who)
    if len(booking) == 0:
        return None
    slot = np.concatenate(chosen_slot)
    order = np.argsort(booking, kind="stable")
    booking, slot = booking[order], slot[order]
    scheduled = (
        week.starts
        + WEEK
        + people.slot_day[booking, slot].astype(np.int64) * DAY
        + people.slot_time[booking, slot]
    )
    n = len(booking)
    regular = people.state[booking] <= HEALTHY
    ahead = np.where(
        regular,
        7 * DAY - ((0.04 + 1.2 * rng.random(n)) * DAY).astype(np.int64),
        ((0.6 + 3.4 * rng.random(n)) * DAY).astype(np.int64),
    )
    # nobody books before signing up, and newcomers decide on a second lesson after the first
    earliest = np.maximum(people.signed_up_at[booking] + HOUR, week.starts + HOUR)
    newcomer = people.lessons_done[booking] == 1
    earliest = np.where(
        newcomer, np.maximum(earliest, people.last_completed_at[booking] + HOUR // 3), earliest
    )
    booked = np.minimum(np.maximum(scheduled - ahead, earliest), scheduled - 2 * HOUR)
    substitute = rng.random(n) < np.array(attendance.substitute_tutor)[people.state[booking]]
    tutor = people.tutor[booking].copy()
    if substitute.any():
        tutor[substitute] = week.tutors.choose(rng, people.subject[booking[substitute]], week.starts)
    return book(week, booking, scheduled, booked, tutor)


def chance_kept(config: Config, who_state: np.ndarray) -> np.ndarray:
    """Probability that a booked lesson takes place, by latent state code."""
    attendance = config.attendance
    kept = 1 - np.array(attendance.customer_cancels) - np.array(attendance.no_show)
    return (kept * (1 - attendance.tutor_unreliability))[who_state]


def resolve(week: Week, lessons: Batch, effects: Effects) -> Batch:
    """Outcomes, ratings and corrections of the open lessons of this week; updates customers and ``effects``.

    Returns final versions that will not change any more (at most seven), for the nightly reconciliation.
    """
    rng, people, attendance = week.rng, week.customers, week.config.attendance
    who = lessons["who"]
    n = len(who)
    tutor = lessons["tutor_id"] - 1
    state = people.state[who]
    first = people.waiting_for_first[who] & (rank_within(who) == 0)
    local = who - week.low
    np.add.at(effects.lessons, local, 1)

    cancels = np.array(attendance.customer_cancels)[state]
    misses = np.array(attendance.no_show)[state]
    cancels = np.where(first, 0.05, cancels)
    misses = np.where(first, 0.04, misses)
    away = people.paused_until[who] > week.number
    cancels = np.where(away, 0.92, cancels)
    misses = np.where(away, 0.03, misses)
    tutor_cancels = week.tutors.unreliability[tutor] + np.where(
        lessons["confirmed_at"] == NULL_TIME, 0.12, 0.0
    )
    draw = rng.random(n)
    edges = np.cumsum(
        np.stack([tutor_cancels.clip(0, 0.3) * (1 - cancels - misses), cancels, misses]), axis=0
    )
    status = np.select(
        [draw < edges[0], draw < edges[1], draw < edges[2]],
        [CANCELLED_BY_TUTOR, CANCELLED_BY_CUSTOMER, NO_SHOW],
        COMPLETED,
    ).astype(np.int8)
    done = status == COMPLETED
    minutes = np.array([30, 45, 60, 60, 90])[rng.integers(0, 5, n)]
    scheduled = lessons["scheduled_at"]
    known = np.where(lessons["confirmed_at"] == NULL_TIME, lessons["booked_at"], lessons["confirmed_at"])
    cancelled_at = scheduled - ((0.5 + 47 * rng.random(n) ** 2) * HOUR).astype(np.int64)
    cancelled_at = np.minimum(
        np.maximum(np.maximum(cancelled_at, known + 10 * MINUTE), week.starts), scheduled
    )
    resolved = np.select(
        [done, status == NO_SHOW],
        [
            scheduled + (minutes + rng.integers(0, 10, n)) * MINUTE,
            scheduled + (15 + rng.integers(0, 15, n)) * MINUTE,
        ],
        cancelled_at,
    ).astype(np.int64)

    quality = week.tutors.quality[tutor]
    match = np.where(lessons["own"], people.match[who], 0.0)
    noise = rng.standard_normal(n)
    score = (
        attendance.typical_score
        + 0.36 * quality
        + 0.36 * match
        + 0.22 * people.generosity[who]
        - 0.22 * np.minimum(people.trouble[who], 2.5)
        + 0.50 * noise
    )
    stars = np.rint(score).clip(1, 5).astype(np.int64)
    chance = first_success_chance(week, who, tutor, lessons["response_hours"])
    success = rng.random(n) < chance
    stars = np.where(
        first,
        np.where(success, np.where(rng.random(n) < 0.62, 5, 4), np.where(rng.random(n) < 0.68, 3, 2)),
        stars,
    )
    satisfied_rate = np.where(first, attendance.rates_first_lesson, attendance.rates_lesson)
    rates = done & (rng.random(n) < satisfied_rate)
    rated_at = resolved + (np.exp(np.log(5.0) + 1.1 * rng.standard_normal(n)).clip(0.1, 150) * HOUR).astype(
        np.int64
    )

    lessons["status"] = status
    lessons["resolved_at"] = resolved
    lessons["duration_minutes"] = np.where(done, minutes, NULL_INTEGER)
    lessons["updated_at"] = resolved.copy()
    lessons["loaded_at"] = week.dispatcher.loaded_at(rng, resolved, lessons["loaded_at"])
    send(week, lessons)
    rated = take(lessons, rates)
    rated["rating"] = stars[rates]
    rated["rated_at"] = rated_at[rates]
    rated["updated_at"] = rated["rated_at"].copy()
    rated["loaded_at"] = week.dispatcher.loaded_at(rng, rated["rated_at"], rated["loaded_at"])
    send(week, rated)
    # a few outcomes turn out to be wrong: a lesson that nobody attended, a no-show that took place
    wrong = ((done & ~rates) | (status == NO_SHOW)) & (rng.random(n) < 2.2 * attendance.corrected_outcome)
    if wrong.any():
        corrected = take(lessons, wrong)
        took_place = corrected["status"] == NO_SHOW
        corrected["status"] = np.where(took_place, COMPLETED, NO_SHOW).astype(np.int8)
        corrected["duration_minutes"] = np.where(took_place, 60, NULL_INTEGER)
        corrected["updated_at"] = corrected["resolved_at"] + (
            (1.5 + 7 * rng.random(size(corrected))) * DAY
        ).astype(np.int64)
        corrected["loaded_at"] = week.dispatcher.loaded_at(
            rng, corrected["updated_at"], corrected["loaded_at"]
        )
        send(week, corrected)

    _feel(week, who, local, lessons, stars, first & done, effects)
    final = np.flatnonzero(~rates & ~wrong)[:7]
    return {name: lessons[name][final].copy() for name in SESSION_COLUMNS}


def first_success_chance(
    week: Week, who: np.ndarray, tutor: np.ndarray, response_hours: np.ndarray
) -> np.ndarray:
    """Probability that a first lesson pleases, from causes that can be seen before it.

    The tutor's quality, how long the tutor took to answer, how much the family wrote and prepared, grade
    and channel.
    """
    people = week.customers
    logit = (
        1.42
        + 1.15 * week.tutors.quality[tutor]
        - 1.35 * np.log(np.clip(response_hours, 0.3, 30) / 4.0)
        + 0.90 * (people.eagerness[who] - 2.0)
        + CHANNEL_FIT[people.channel[who]]
        + GRADE_FIT[people.grade[who]]
    )
    return 1 / (1 + np.exp(-logit))


def _feel(
    week: Week,
    who: np.ndarray,
    local: np.ndarray,
    lessons: Batch,
    stars: np.ndarray,
    first_done: np.ndarray,
    effects: Effects,
) -> None:
    """Lets the week's lessons change how customers feel."""
    rng, people = week.rng, week.customers
    done = lessons["status"] == COMPLETED
    np.add.at(effects.completed, local[done], 1)
    np.add.at(effects.bad, local[done & (stars <= 3)], 1)
    np.add.at(effects.let_down, local[lessons["status"] == CANCELLED_BY_TUTOR], 1)
    np.add.at(people.lessons_done, who[done], 1)
    np.maximum.at(people.last_completed_at, who[done], lessons["resolved_at"][done])
    people.waiting_for_first[who[done]] = False
    starters = who[first_done]
    if len(starters) == 0:
        return
    pleased = stars[first_done] >= 4
    keen = pleased & (rng.random(len(starters)) < 0.42)
    stays = rng.random(len(starters)) < np.where(pleased, 0.97, 0.55)
    people.state[starters] = np.select([keen, stays], [THRIVING, HEALTHY], AT_RISK)
    people.match[starters] += np.where(pleased, 0.3, -0.8).astype(np.float32)
    people.trouble[starters] += np.where(pleased, 0.0, 0.8).astype(np.float32)
    effects.first_failed[starters - week.low] += ~pleased


def split_due(open_lessons: list[Batch], before: int) -> tuple[Batch | None, list[Batch]]:
    """Open lessons scheduled before a moment, ordered by customer and time, and the rest."""
    if not open_lessons:
        return None, []
    everything = join(open_lessons) if len(open_lessons) > 1 else open_lessons[0]
    due = everything["scheduled_at"] < before
    rest = take(everything, ~due)
    now = take(everything, due)
    order = np.lexsort((now["scheduled_at"], now["who"]))
    return (take(now, order) if len(order) else None), ([rest] if size(rest) else [])
