"""What the tutor system delivers every night: its roster and the hours on offer, by subject and week."""

from __future__ import annotations

import numpy as np

from simulator.config import DAY, HOUR, SUBJECTS, WEEK, Config
from simulator.delivery import Dispatcher
from simulator.randomness import WEEK_OF_MARKET, generator
from simulator.tutors import Tutors, offered_hours
from simulator.writer import Batch


def scarcity(tutors: Tutors, booked: np.ndarray, starts: int) -> np.ndarray:
    """Chance by subject (20 floats) to find no slot, from last week's booked hours and the hours offered."""
    use = booked / np.maximum(offered_hours(tutors, starts), 1.0)
    return np.clip((use - 0.55) * 0.9, 0.015, 0.6)


def deliver_supply(
    config: Config,
    dispatcher: Dispatcher,
    tutors: Tutors,
    week: int,
    starts: int,
    booked_hours: np.ndarray,
) -> None:
    """Delivers the roster and the availability of one week, night by night.

    Every night a seventh of the tutors (at least one) is sent again around 02:00, so a week refreshes all,
    and with it the hours that this seventh offers in the current and the next week. Tutors whom families
    book more offer more: ``booked_hours`` is by tutor, of the current week.
    """
    rng = generator(config.seed, WEEK_OF_MARKET, week)
    mood = 0.85 + 0.3 * rng.random(tutors.count)  # not every week is the same for a tutor
    per_subject = tutors.weekly_hours / tutors.teaches.sum(axis=1)
    share_booked = booked_hours / tutors.weekly_hours
    for night in range(7):
        moment = starts + night * DAY + 2 * HOUR
        turn = (np.arange(tutors.count) + night) % 7 == 0
        sent = np.flatnonzero(turn & (tutors.joined_at < moment - DAY))
        if len(sent) == 0:
            sent = np.flatnonzero(tutors.joined_at < moment - DAY)[:1]
        if moment < dispatcher.first_moment:
            continue
        n = len(sent)
        landed = moment + (rng.random(n) * HOUR).astype(np.int64)
        roster: Batch = {
            "tutor_id": sent + 1,
            "joined_at": tutors.joined_at[sent],
            "subjects": np.array([tutors.subject_lists[i] for i in sent], dtype=object),
            "updated_at": tutors.joined_at[sent],
            "loaded_at": landed,
        }
        dispatcher.send(rng, "raw_tutors", roster)
        row, subject = np.nonzero(tutors.teaches[sent])
        who = sent[row]
        parts = []
        for ahead in (0, 1):
            revised = 1 + 0.02 * (night - 3) * (2 * ahead - 1)  # next week's hours firm up, this week's go
            offered = per_subject[who] * mood[who] * np.maximum(1.0, share_booked[who] / 0.9) * revised
            parts.append(
                {
                    "tutor_id": who + 1,
                    "subject": subject.astype(np.int8),
                    "week_start": np.full(len(who), starts + ahead * WEEK),
                    "available_hours": np.round(offered, 2),
                    "loaded_at": landed[row] + HOUR // 4,
                }
            )
        both = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        dispatcher.send(rng, "raw_tutor_availability", both)


def deliver_joined(dispatcher: Dispatcher, rng: np.random.Generator, tutors: Tutors, starts: int) -> None:
    """Delivers the tutors who join in the week that begins at ``starts``, hours after they join."""
    new = np.flatnonzero((tutors.joined_at >= starts) & (tutors.joined_at < starts + WEEK))
    dispatcher.send(
        rng,
        "raw_tutors",
        {
            "tutor_id": new + 1,
            "joined_at": tutors.joined_at[new],
            "subjects": np.array([tutors.subject_lists[i] for i in new], dtype=object),
            "updated_at": tutors.joined_at[new],
            "loaded_at": dispatcher.loaded_at(rng, tutors.joined_at[new]),
        },
    )


def deliver_opening(dispatcher: Dispatcher, rng: np.random.Generator, tutors: Tutors, start: int) -> None:
    """Delivers the whole roster in the first hours of the run, so that every later fact finds its tutor."""
    there = np.flatnonzero(tutors.joined_at < start)
    dispatcher.send(
        rng,
        "raw_tutors",
        {
            "tutor_id": there + 1,
            "joined_at": tutors.joined_at[there],
            "subjects": np.array([tutors.subject_lists[i] for i in there], dtype=object),
            "updated_at": tutors.joined_at[there],
            "loaded_at": start + HOUR + (rng.random(len(there)) * HOUR / 2).astype(np.int64),
        },
    )


def lessons_by_subject(subjects: np.ndarray) -> np.ndarray:
    """Counts of lessons by subject code."""
    return np.bincount(subjects, minlength=len(SUBJECTS)).astype(float)
