"""Tutors: quality, subjects, reliability, how fast they answer, and the hours they offer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.config import DAY, SUBJECTS, WEEK, Config, microseconds
from simulator.randomness import TUTORS, generator

SUBJECT_DEMAND = np.array([9, 8, 7, 6, 6, 4, 4, 3, 5, 2, 7, 4, 8, 4, 3, 4, 2, 2, 8, 4], dtype=float)
"""Relative demand by subject, in the order of SUBJECTS."""


@dataclass
class Tutors:
    """Arrays by tutor. Quality is in standard deviations; hours are a week and over all of a tutor's
    subjects.
    """

    joined_at: np.ndarray
    quality: np.ndarray
    unreliability: np.ndarray
    response_hours: np.ndarray
    weekly_hours: np.ndarray
    teaches: np.ndarray
    """bool, tutors by subjects."""
    subject_lists: list[str]
    by_subject: list[np.ndarray]
    """For each subject the tutors who teach it, ordered by the moment they joined."""

    @property
    def count(self) -> int:
        """Number of tutors."""
        return len(self.joined_at)

    def choose(self, rng: np.random.Generator, subject: np.ndarray, moment: int) -> np.ndarray:
        """A tutor (int32) for each customer subject among those who had joined by ``moment``
        (microseconds).
        """
        chosen = np.zeros(len(subject), dtype=np.int32)
        draw = rng.random(len(subject))
        for code in range(len(SUBJECTS)):
            wanted = subject == code
            if not wanted.any():
                continue
            pool = self.by_subject[code]
            joined = max(1, int(np.searchsorted(self.joined_at[pool], moment, side="right")))
            chosen[wanted] = pool[(draw[wanted] * joined).astype(np.int64)]
        return chosen


def hire(config: Config) -> Tutors:
    """All tutors of a run: a function of seed, start and customers alone."""
    market = config.marketplace
    count = max(market.minimum_tutors, round(config.customers / market.customers_per_tutor))
    rng = generator(config.seed, TUTORS)
    start = microseconds(config.start)
    before = rng.random(count) < 0.62
    # most are there at the opening, the others join as the marketplace grows
    joined = np.where(
        before,
        start - (rng.random(count) * 500 + 3) * DAY,
        start + rng.random(count) * config.signup_days * 0.9 * DAY,
    ).astype(np.int64)
    quality = rng.standard_normal(count)
    unreliability = rng.gamma(1.2, 1 / 1.2, count) * config.attendance.tutor_unreliability
    response = np.exp(np.log(4.0) - 0.25 * quality + 0.75 * rng.standard_normal(count)).clip(0.2, 40)
    hours = 8 + rng.gamma(2.0, 6.5, count)
    teaches = np.zeros((count, len(SUBJECTS)), dtype=bool)
    share = SUBJECT_DEMAND / SUBJECT_DEMAND.sum()
    for _ in range(3):  # two or three subjects each
        teaches[np.arange(count), rng.choice(len(SUBJECTS), count, p=share)] = True
    for code in range(len(SUBJECTS)):  # nobody must find a subject without any tutor
        teaches[code % count, code] = True
        joined[code % count] = min(joined[code % count], start - 3 * DAY)
    by_subject = []
    for code in range(len(SUBJECTS)):
        pool = np.flatnonzero(teaches[:, code])
        by_subject.append(pool[np.argsort(joined[pool], kind="stable")].astype(np.int32))
    lists = [",".join(SUBJECTS[s] for s in np.flatnonzero(row)) for row in teaches]
    return Tutors(joined, quality, unreliability, response, hours, teaches, lists, by_subject)


def offered_hours(tutors: Tutors, moment: int) -> np.ndarray:
    """Hours a week offered by subject (float, one per subject) by tutors who joined before ``moment + one
    week``.
    """
    present = tutors.joined_at < moment + WEEK
    share = tutors.weekly_hours / tutors.teaches.sum(axis=1)
    return (tutors.teaches * (share * present)[:, None]).sum(axis=0)
