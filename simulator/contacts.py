"""Logins, messages and calls: what people do around lessons, and what they say when something goes wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.config import (
    AT_RISK,
    BILLING,
    DAY,
    HOUR,
    LAPSED,
    MINUTE,
    NULL_TIME,
    OTHER,
    SCHEDULING,
    TECHNICAL,
    TUTOR_QUALITY,
    WEEK,
    Config,
)
from simulator.customers import Customers
from simulator.delivery import size, take
from simulator.lessons import Effects, Week
from simulator.randomness import AGREEMENTS, generator, rank_within
from simulator.writer import Batch

LOGIN, MESSAGE = 0, 1
INBOUND, OUTBOUND = 0, 1
SENTIMENT_BY_REASON = np.array([-0.35, -0.22, -0.48, -0.12, 0.12])


def daytime(rng: np.random.Generator, first: np.ndarray, span_days: np.ndarray | float) -> np.ndarray:
    """Moments (int64 microseconds) in the days after ``first``, mostly in the waking hours of America."""
    n = len(first)
    day = (rng.random(n) * span_days).astype(np.int64) * DAY
    return first + day + ((13 + 14 * rng.random(n)) % 24 * HOUR).astype(np.int64)


def send_app_events(week: Week, who: np.ndarray, moments: np.ndarray, kinds: np.ndarray) -> Batch:
    """Delivers app events of customers ``who`` (equal ones adjacent) and returns the first few for the
    reconciliation.
    """
    people = week.customers
    sequence = people.event_sequence[who] + rank_within(who)
    people.event_sequence[who] = sequence + 1
    batch: Batch = {
        "event_id": (who.astype(np.int64) + 1) * 100_000 + sequence,
        "customer_id": who.astype(np.int64) + 1,
        "occurred_at": moments,
        "event_type": kinds.astype(np.int8),
        "loaded_at": week.dispatcher.loaded_at(week.rng, moments),
    }
    week.dispatcher.send(week.rng, "raw_app_events", batch)
    return take(batch, np.arange(min(7, size(batch))))


def get_acquainted(week: Week, who: np.ndarray) -> None:
    """Logins and messages in the days after signup: the eager ones prepare their first lesson better."""
    rng, people = week.rng, week.customers
    ready = people.preparedness[who]
    messages = rng.poisson(np.exp(0.45 + 0.75 * ready)).clip(0, 7)
    logins = 1 + rng.poisson(np.exp(0.6 + 0.45 * ready)).clip(0, 10)
    people.eagerness[who] = np.minimum(messages, 5)
    repeated = np.repeat(who, messages + logins)
    kinds = (rank_within(repeated) < np.repeat(messages, messages + logins)).astype(np.int8)
    wait = (np.exp(np.log(14) + 0.9 * rng.standard_normal(len(repeated))).clip(0.05, 100) * HOUR).astype(
        np.int64
    )
    wait = np.where(kinds == LOGIN, np.where(rank_within(repeated) == 0, MINUTE, wait), wait)
    send_app_events(week, repeated, people.signed_up_at[repeated] + wait, kinds)


def agreements(config: Config, customers: Customers) -> np.ndarray:
    """When each customer of the opening weeks logs in to agree to lasting terms or to close the account:
    microseconds (int64), NULL_TIME for all others.
    """
    moments = np.full(customers.count, NULL_TIME, dtype=np.int64)
    if customers.count:
        market = config.marketplace
        asked = customers.signed_up_at[0] // DAY * DAY + market.provisional_days * DAY
        early = np.flatnonzero(customers.signed_up_at < asked)
        rng = generator(config.seed, AGREEMENTS)
        moments[early] = daytime(rng, np.full(len(early), asked), market.agreement_days)
    return moments


def agree_to_terms(week: Week, agreed_at: np.ndarray) -> None:
    """Delivers the logins of ``agreed_at`` (see ``agreements``) that fall into the week.

    They draw from a generator of their own, so everything else in the week is as it would be without them.
    """
    own = agreed_at[week.low : week.low + week.people]
    who = week.low + np.flatnonzero((own >= week.starts) & (own < week.starts + WEEK))
    if len(who):
        rng = generator(week.config.seed, AGREEMENTS, week.number, week.low)
        send_app_events(replace(week, rng=rng), who, agreed_at[who], np.full(len(who), LOGIN))


def use_the_app(week: Week, who: np.ndarray, lessons: Batch | None) -> Batch | None:
    """Logins and messages of one week: before lessons, and now and then in between."""
    rng, people = week.rng, week.customers
    attendance = week.config.attendance
    state = people.state[who]
    lively = np.where(
        state == LAPSED,
        np.exp(-people.weeks_lapsed[who] / attendance.app_fades_weeks),
        np.exp(-0.25 * np.minimum(people.trouble[who], 2.5)),
    )
    lively = np.where(people.paused_until[who] > week.number, 0.15, lively)
    parts = []
    for kind, rates in ((LOGIN, attendance.extra_logins), (MESSAGE, attendance.messages)):
        counts = rng.poisson(np.array(rates)[state] * lively)
        repeated = np.repeat(who, counts)
        parts.append((repeated, daytime(rng, np.full(len(repeated), week.starts), 7.0), kind))
    if lessons is not None:
        present = rng.random(size(lessons)) < 0.85
        before = lessons["scheduled_at"] - ((1 + 20 * rng.random(size(lessons))) * MINUTE).astype(np.int64)
        parts.append((lessons["who"][present], before[present], LOGIN))
    everyone = np.concatenate([part[0] for part in parts])
    if len(everyone) == 0:
        return None
    moments = np.concatenate([part[1] for part in parts])
    kinds = np.concatenate([np.full(len(part[0]), part[2], dtype=np.int8) for part in parts])
    order = np.lexsort((moments, everyone))
    return send_app_events(week, everyone[order], moments[order], kinds[order])


def call(week: Week, who: np.ndarray, effects: Effects) -> Batch | None:
    """Calls of one week, with the reason that caused them; returns the first few for the reconciliation."""
    rng, people, support = week.rng, week.customers, week.config.support
    state = people.state[who]
    local = who - week.low
    felt = np.minimum(people.trouble[who], 2.5)
    rates = np.zeros((len(who), 5))
    base = np.array(support.base)[state] * np.exp(0.35 * felt)
    rates += base[:, None] * np.array([0.2, 0.25, 0.15, 0.2, 0.2])
    leaving = support.lapsed_first_weeks * 0.5 ** (people.weeks_lapsed[who] / support.leaving_half_life_weeks)
    leaving = np.where((state == LAPSED) & (people.lessons_done[who] > 0), leaving, 0.0)
    rates += leaving[:, None] * np.array([0.5, 0.15, 0.2, 0.05, 0.1])
    rates[:, BILLING] += support.after_failed_payment * np.minimum(effects.failed_payments[local], 3)
    rates[:, SCHEDULING] += support.after_tutor_cancels * effects.let_down[local]
    rates[:, SCHEDULING] += support.after_no_slot * effects.no_slot[local]
    rates[:, TUTOR_QUALITY] += support.after_bad_lesson * (
        effects.bad[local] + 2 * effects.first_failed[local]
    )
    rates *= np.where(people.paused_until[who] > week.number, 0.3, 1.0)[:, None]
    total = rates.sum(axis=1)
    inbound = np.minimum(rng.poisson(total), 4)
    outbound = (rng.random(len(who)) < np.array(support.outbound)[state]) & (people.weeks_lapsed[who] < 8)
    counts = inbound + outbound
    row = np.repeat(np.arange(len(who)), counts)
    if len(row) == 0:
        return None
    caller = who[row]
    n = len(row)
    direction = np.where(rank_within(row) < inbound[row], INBOUND, OUTBOUND).astype(np.int8)
    edges = np.cumsum(rates[row], axis=1)
    reason = np.minimum((rng.random(n)[:, None] * edges[:, -1:] >= edges).sum(axis=1), OTHER)
    reason = np.where(edges[:, -1] > 0, reason, TECHNICAL)
    unhappy = 0.12 * felt[row] + np.where(state[row] >= AT_RISK, 0.12, 0.0)
    sentiment = (SENTIMENT_BY_REASON[reason] - unhappy + 0.30 * rng.standard_normal(n)).clip(-1, 1)
    escalated = (direction == INBOUND) & (sentiment < -0.4) & (rng.random(n) < 0.35)
    sentiment = np.where(rng.random(n) < 0.05, np.nan, np.round(sentiment, 3))
    called_at = daytime(rng, np.full(n, week.starts + WEEK // 7), 7.0)  # a day or so after what caused them
    sequence = people.call_sequence[caller] + rank_within(caller)
    people.call_sequence[caller] = sequence + 1
    batch: Batch = {
        "call_id": (caller.astype(np.int64) + 1) * 10_000 + sequence,
        "customer_id": caller.astype(np.int64) + 1,
        "called_at": called_at,
        "direction": direction,
        "duration_seconds": np.exp(np.log(260) + 0.7 * rng.standard_normal(n))
        .clip(10, 5400)
        .astype(np.int64),
        "reason": reason.astype(np.int8),
        "sentiment_score": sentiment,
        "escalated": escalated,
        "loaded_at": week.dispatcher.loaded_at(rng, called_at),
    }
    week.dispatcher.send(rng, "raw_calls", batch)
    return take(batch, np.arange(min(7, n)))
