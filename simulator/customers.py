"""Customers: who signs up when, what they bring along, and the latent state that each carries from week to
week.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta

import numpy as np

from simulator.config import AT_RISK, DAY, HOUR, NULL_TIME, SUBJECTS, WEEK, Config, microseconds
from simulator.randomness import SIGNUPS, STATIC, generator, pick
from simulator.school_calendar import signup_intensity
from simulator.tutors import SUBJECT_DEMAND

MAXIMUM_SLOTS = 4


@dataclass
class Customers:
    """One array element a customer, ordered by signup. Times are microseconds since 1970, weeks are run
    weeks.
    """

    signed_up_at: np.ndarray
    tier: np.ndarray
    channel: np.ndarray
    grade: np.ndarray
    subject: np.ndarray
    lessons_wished: np.ndarray
    fragility: np.ndarray
    preparedness: np.ndarray
    generosity: np.ndarray
    card_risk: np.ndarray
    goal_lessons: np.ndarray
    goal_is_exam: np.ndarray
    slot_day: np.ndarray
    slot_time: np.ndarray
    profile_updated_at: np.ndarray
    state: np.ndarray
    tutor: np.ndarray
    match: np.ndarray
    trouble: np.ndarray
    card_broken: np.ndarray
    paused_until: np.ndarray
    no_slot: np.ndarray
    busy_until: np.ndarray
    eagerness: np.ndarray
    weeks_lapsed: np.ndarray
    waiting_for_first: np.ndarray
    last_completed_at: np.ndarray
    lessons_done: np.ndarray
    booked_next_week: np.ndarray
    session_sequence: np.ndarray
    event_sequence: np.ndarray
    payment_sequence: np.ndarray
    call_sequence: np.ndarray
    gone: np.ndarray

    @property
    def count(self) -> int:
        """Number of customers."""
        return len(self.signed_up_at)


def _signup_times(config: Config) -> np.ndarray:
    """Signup moments before the end, ascending: ``config.customers`` of them in the first ``signup_days``."""
    market = config.marketplace
    horizon = max(config.signup_days, (config.end - config.start).days + 8)
    days = np.arange(horizon)
    intensity = np.array(
        [signup_intensity(config.start + timedelta(days=int(day))) for day in days], dtype=float
    ) * np.exp(market.weekly_growth * days / 7)
    steady = intensity / intensity[: config.signup_days].sum() * (1 - market.opening_share)
    steady[: market.opening_days] += market.opening_share / market.opening_days
    cumulative = np.concatenate(([0.0], np.cumsum(steady)))
    expected = int(np.ceil(cumulative[-1] * config.customers))
    chunk = config.chunk_customers
    jitter = np.concatenate(
        [generator(config.seed, SIGNUPS, c).random(chunk) for c in range(-(-expected // chunk))]
    )[:expected]
    position = (np.arange(expected) + jitter) / config.customers
    position = position[position < cumulative[-1]]
    moment = microseconds(config.start) + (
        np.interp(position, cumulative, np.arange(horizon + 1)) * DAY
    ).astype(np.int64)
    moment = moment // 1_000_000 * 1_000_000
    # whole weeks are simulated: a later end must find the same people in the last one
    return moment[moment < microseconds(config.end) + WEEK]


def _static_chunk(config: Config, chunk: int) -> dict[str, np.ndarray]:
    """What the customers of one chunk bring along; always drawn whole, so that it depends on seed and chunk
    alone.
    """
    market = config.marketplace
    n = config.chunk_customers
    rng = generator(config.seed, STATIC, chunk)
    tier = pick(rng, market.tier_share, n)
    channel = pick(rng, market.channel_share, n)
    grade = pick(rng, market.grade_share, n)
    # subjects that fit the grade: others keep a small share
    fits = np.full((4, len(SUBJECTS)), 0.02)
    names = {name: i for i, name in enumerate(SUBJECTS)}
    for level, wanted in enumerate(
        (
            ("elementary_math", "english", "spanish"),
            ("algebra_1", "geometry", "middle_school_science", "english", "history", "spanish", "french"),
            tuple(set(SUBJECTS) - {"elementary_math", "middle_school_science"}),
            (
                "precalculus",
                "economics",
                "psychology",
                "computer_science",
                "english",
                "ap_statistics",
                "french",
            ),
        )
    ):
        for name in wanted:
            fits[level, names[name]] = 1.0
    weight = fits * SUBJECT_DEMAND
    edges = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
    subject = np.minimum((rng.random(n)[:, None] > edges[grade]).sum(axis=1), len(SUBJECTS) - 1).astype(
        np.int8
    )
    wished = pick(rng, market.lessons_a_week, n) + 1
    base_day = rng.integers(0, 7, n)
    slot_day = (base_day[:, None] + np.array([0, 3, 1, 5])) % 7
    slot_time = (rng.integers(14 * 2, 23 * 2, (n, MAXIMUM_SLOTS)) * (HOUR // 2)).astype(np.int64)
    for codes in (tier, channel, grade):
        codes[rng.random(n) < market.missing_profile_share] = -1
    return {
        "tier": tier,
        "channel": channel,
        "grade": grade,
        "subject": subject,
        "lessons_wished": wished.astype(np.int8),
        "fragility": np.exp(market.fragility_spread * rng.standard_normal(n)).astype(np.float32),
        "preparedness": rng.standard_normal(n).astype(np.float32),
        "generosity": rng.standard_normal(n).astype(np.float32),
        "card_risk": rng.gamma(0.6, 1 / 0.6, n).astype(np.float32),
        "goal_lessons": np.where(rng.random(n) < 0.5, rng.integers(15, 120, n), 30_000).astype(np.int16),
        "goal_is_exam": rng.random(n) < 0.6,
        "slot_day": slot_day.astype(np.int8),
        "slot_time": slot_time,
        "state": np.full(n, AT_RISK, dtype=np.int8),
        "match": rng.standard_normal(n).astype(np.float32),
    }


def enrol(config: Config) -> Customers:
    """All customers who sign up before one week after the end; nobody has settled in yet, so all start at
    risk.
    """
    signed_up_at = _signup_times(config)
    count = len(signed_up_at)
    size = config.chunk_customers
    static: dict[str, np.ndarray] = {}
    for chunk in range(-(-count // size) if count else 1):
        part = _static_chunk(config, chunk)
        low, high = chunk * size, min((chunk + 1) * size, count)
        for name, values in part.items():
            if name not in static:
                static[name] = np.empty((count, *values.shape[1:]), dtype=values.dtype)
            static[name][low:high] = values[: high - low]
    zeros = {
        "tutor": np.int32,
        "trouble": np.float32,
        "card_broken": bool,
        "no_slot": bool,
        "busy_until": np.int16,
        "eagerness": np.float32,
        "weeks_lapsed": np.int16,
        "paused_until": np.int16,
        "waiting_for_first": bool,
        "lessons_done": np.int16,
        "booked_next_week": np.int8,
        "session_sequence": np.int16,
        "event_sequence": np.int32,
        "payment_sequence": np.int16,
        "call_sequence": np.int16,
        "gone": bool,
    }
    columns = {name: np.zeros(count, dtype=kind) for name, kind in zeros.items()} | static
    columns["signed_up_at"] = signed_up_at
    columns["profile_updated_at"] = signed_up_at.copy()
    columns["last_completed_at"] = np.full(count, NULL_TIME, dtype=np.int64)
    return Customers(**{f.name: columns[f.name] for f in fields(Customers)})


def days_without_lesson(customers: Customers, who: np.ndarray, moment: int) -> np.ndarray:
    """Days (float) from the last completed lesson, or from signup where there is none, to ``moment``."""
    last = customers.last_completed_at[who]
    last = np.where(last == NULL_TIME, customers.signed_up_at[who], last)
    return (moment - last) / (WEEK / 7)
