"""The latent state of a customer and the hazards that move it, each with a cause that leaves traces in the
tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from simulator.config import AT_RISK, HEALTHY, LAPSED, THRIVING, Config
from simulator.customers import Customers
from simulator.school_calendar import (
    TEST_SUBJECTS,
    exams_just_over,
    lessons_factor,
    summer_begins,
)

AT_RISK_LOST = 0.07
"""Share of the lessons of customers at risk that fall through as no slot is found or no tutor answers in
time.
"""
FIRST_LESSON_HELD = 0.84
AFTER_FIRST_LESSON = (0.25, 0.50, 0.25, 0.0)
"""Latent states into which first lessons lead, on average (known to the true risk alone)."""


@dataclass
class Outlook:
    """What behaviour depends on, for n customers: enough to compute hazards now and later."""

    state: np.ndarray
    trouble: np.ndarray
    fragility: np.ndarray
    weeks_lapsed: np.ndarray
    goal_near: np.ndarray
    goal_is_exam: np.ndarray
    subject: np.ndarray
    lessons_wished: np.ndarray
    waiting: np.ndarray


def outlook_of(customers: Customers, who: np.ndarray) -> Outlook:
    """The outlook of the customers ``who`` (indices) as things stand."""
    return Outlook(
        state=customers.state[who],
        trouble=customers.trouble[who],
        fragility=customers.fragility[who],
        weeks_lapsed=customers.weeks_lapsed[who],
        goal_near=customers.lessons_done[who] >= customers.goal_lessons[who],
        goal_is_exam=customers.goal_is_exam[who],
        subject=customers.subject[who],
        lessons_wished=customers.lessons_wished[who],
        waiting=customers.waiting_for_first[who],
    )


def transition_matrix(config: Config, outlook: Outlook, monday: date, trouble: np.ndarray) -> np.ndarray:
    """Probabilities (n, 4, 4), from state to state, for the week of ``monday`` given the trouble felt by
    then.
    """
    moves = config.moves
    n = len(trouble)
    felt = np.minimum(trouble, moves.trouble_ceiling)
    fragile = outlook.fragility
    subjects_over = exams_just_over(monday)
    leave = np.where(outlook.goal_near, moves.goal_reached, 0.0)
    if subjects_over:
        over = np.isin(outlook.subject, list(subjects_over)) & outlook.goal_is_exam
        leave = leave + np.where(over, moves.exam_over, 0.0)
    worse, better = np.exp(1.3 * felt), np.exp(-0.8 * felt)
    matrix = np.zeros((n, 4, 4), dtype=np.float64)
    matrix[:, THRIVING, HEALTHY] = moves.thriving_to_healthy * np.exp(0.5 * felt)
    matrix[:, THRIVING, AT_RISK] = moves.thriving_to_at_risk * fragile * worse
    matrix[:, THRIVING, LAPSED] = moves.thriving_to_lapsed * fragile + leave
    matrix[:, HEALTHY, THRIVING] = moves.healthy_to_thriving * better
    matrix[:, HEALTHY, AT_RISK] = moves.healthy_to_at_risk * fragile * worse
    matrix[:, HEALTHY, LAPSED] = moves.healthy_to_lapsed * fragile * worse + leave
    matrix[:, AT_RISK, THRIVING] = moves.at_risk_to_thriving * better
    matrix[:, AT_RISK, HEALTHY] = moves.at_risk_to_healthy * better
    matrix[:, AT_RISK, LAPSED] = moves.at_risk_to_lapsed * fragile * np.exp(0.4 * felt) + leave
    season = 2.2 if monday.month in (8, 9) else (1.5 if monday.month == 1 else 1.0)
    matrix[:, LAPSED, HEALTHY] = (
        season * moves.lapsed_to_healthy * np.exp(-outlook.weeks_lapsed / moves.return_fades_weeks)
    )
    total = matrix.sum(axis=2, keepdims=True)
    matrix *= np.minimum(1.0, 0.9 / np.maximum(total, 1e-12))
    for state in range(4):
        matrix[:, state, state] = 1.0 - matrix[:, state].sum(axis=1)
    return matrix


def move(rng: np.random.Generator, matrix: np.ndarray, state: np.ndarray) -> np.ndarray:
    """The next state (int8) of n customers drawn from their rows of the transition matrix."""
    edges = np.cumsum(matrix[np.arange(len(state)), state], axis=1)
    return np.minimum((rng.random(len(state))[:, None] > edges).sum(axis=1), 3).astype(np.int8)


def slots_wanted(lessons_wished: np.ndarray, state: int) -> np.ndarray:
    """Weekly lesson slots (int) that customers keep in a latent state."""
    if state == THRIVING:
        return lessons_wished
    return np.full_like(lessons_wished, 0 if state == LAPSED else 1)


def missed_week(config: Config, outlook: Outlook, monday: date) -> np.ndarray:
    """Probability (n, 4) of a week without any completed lesson in each state, in the week of ``monday``."""
    attendance = config.attendance
    factor = min(1.0, lessons_factor(monday))
    missed = np.ones((len(outlook.state), 4))
    for state in (THRIVING, HEALTHY, AT_RISK):
        held = (
            (1 - attendance.customer_cancels[state] - attendance.no_show[state])
            * (1 - attendance.tutor_unreliability)
            * attendance.books_slot[state]
            * factor
        )
        if state == AT_RISK:
            held = held * (1 - AT_RISK_LOST)
            # who still waits for a first lesson tries harder, and seldom misses it
            held = np.where(outlook.waiting, attendance.books_first * FIRST_LESSON_HELD * factor, held)
        missed[:, state] = (1 - held) ** slots_wanted(outlook.lessons_wished, state)
    return missed


def summer_pause(
    config: Config, rng: np.random.Generator, customers: Customers, who: np.ndarray, monday: date, week: int
) -> None:
    """Lets families leave for the summer: they come back around back-to-school. Changes ``paused_until``."""
    if not summer_begins(monday):
        return
    school = (customers.grade[who] <= 2) & ~np.isin(customers.subject[who], list(TEST_SUBJECTS))
    chance = 1 - (1 - config.moves.summer_pause_share) ** 0.25  # spread over four weeks
    goes = school & (rng.random(len(who)) < chance) & (customers.paused_until[who] <= week)
    goes &= customers.state[who] != LAPSED
    august = date(monday.year, 8, 14).toordinal() - monday.toordinal()
    back = week + august // 7 + rng.integers(-2, 4, len(who))
    customers.paused_until[who[goes]] = back[goes]
