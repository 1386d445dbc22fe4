"""The true churn risks: what nobody who only sees the tables can know, kept beside them for the evaluation.

The behaviour is a Markov chain over the latent state and the number of weeks in a row without a completed
lesson. With regular weekly slots a gap of more than 30 days is four or more missed weeks. For a Monday D
the chain is run forward to D + 14 and D + 30 days (30 days lie between four and five weeks: both are
computed and weighted 5 to 2), and backward for the chance that the gap at that moment grows to four weeks.
Hazards, trouble, calendar, pauses and what is already booked for the first week are the true ones; trouble
of later weeks decays towards its mean. That replaces later random causes (a card that will break) by their
average, the one approximation made here.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from simulator.behaviour import AFTER_FIRST_LESSON, FIRST_LESSON_HELD, Outlook, missed_week, transition_matrix
from simulator.config import AT_RISK, LAPSED, Config

GAP_WEEKS = 4
HORIZON = 9


def true_risks(
    config: Config,
    outlook: Outlook,
    monday: date,
    days_without_lesson: np.ndarray,
    paused_weeks: np.ndarray,
    booked: np.ndarray,
    first_booked_week: np.ndarray,
    attends: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weekly lapse hazard, 14-day and 30-day churn risk (each float64, n) at the Monday.

    ``paused_weeks``: weeks for which the customer will surely be away; ``booked``: lessons already booked
    for the first week; ``first_booked_week``: weeks until a booked first lesson (negative: none);
    ``attends`` (n, 4): probability by state that a booked lesson takes place.
    """
    n = len(outlook.state)
    rows = np.arange(n)
    moves = config.moves
    trouble = outlook.trouble.astype(np.float64)
    matrices, missed = [], []
    matrix = None
    settled = moves.trouble_typical_inflow / (1 - moves.trouble_memory)
    for week in range(HORIZON):
        day = monday + timedelta(days=7 * week)
        if week in (0, 1, 3):  # trouble fades slowly: the hazards of neighbouring weeks are nearly equal
            matrix = transition_matrix(config, outlook, day, trouble)
        matrices.append(matrix)
        miss = missed_week(config, outlook, day)
        if week == 0:
            miss = np.where((booked > 0)[:, None], (1 - attends) ** np.maximum(booked, 1)[:, None], 0.985)
        first_now = outlook.waiting & (first_booked_week == week)
        first_later = outlook.waiting & (first_booked_week > week)
        miss = np.where(first_now[:, None], 1 - FIRST_LESSON_HELD, np.where(first_later[:, None], 1.0, miss))
        miss = np.where((paused_weeks > week)[:, None], 1.0, miss)
        missed.append(miss)
        trouble = settled + (trouble - settled) * moves.trouble_memory
    hazard = matrices[0][rows, outlook.state, LAPSED]

    def grows(first: int) -> np.ndarray:
        """(n, 4, GAP_WEEKS + 1): chance that the next j weeks from week ``first`` are all missed, by state
        before them.
        """
        result = np.ones((n, 4, GAP_WEEKS + 1))
        for last in range(1, GAP_WEEKS + 1):
            chance = np.ones((n, 4))
            for week in range(first + last - 1, first - 1, -1):
                chance = np.einsum("nij,nj->ni", matrices[week], missed[week] * chance)
            result[:, :, last] = chance
        return result

    mass = np.zeros((n, 4, GAP_WEEKS + 1))
    already = np.clip(np.ceil(days_without_lesson / 7).astype(int) - 1, 0, GAP_WEEKS)
    mass[rows, outlook.state, already] = 1.0
    risk: dict[int, np.ndarray] = {}
    # Who comes back after D + 14 days from a gap that was long enough has lapsed for the 14-day label, and so
    # for the 30-day label too, whatever comes after: set apart from the chain.
    returned = np.zeros(n)
    for week in range(5):
        mass = np.einsum("nij,nim->njm", matrices[week], mass)
        held = mass * (1 - missed[week])[:, :, None]
        gap = mass * missed[week][:, :, None]
        if week >= 2:
            returned += held[:, :, GAP_WEEKS].sum(axis=1)
            held = held[:, :, :GAP_WEEKS]
        mass = np.empty_like(mass)
        held = held.sum(axis=2)
        # the first lesson ends the waiting: it leads to every state
        began = np.where(outlook.waiting, held[:, AT_RISK], 0.0)
        held[:, AT_RISK] -= began
        mass[:, :, 0] = held + began[:, None] * np.array(AFTER_FIRST_LESSON)
        mass[:, :, 1:] = gap[:, :, :-1]
        mass[:, :, GAP_WEEKS] += gap[:, :, GAP_WEEKS]
        if week + 1 in (2, 4, 5):
            need = grows(week + 1)[:, :, ::-1]  # with m weeks missed, four less m are still needed
            risk[week + 1] = returned + (mass * need).sum(axis=(1, 2))
    risk_30 = (5 * risk[4] + 2 * risk[5]) / 7
    return hazard, risk[2].clip(0, 1), risk_30.clip(0, 1)
