"""Card payments: a charge every second week, retries when it fails, refunds when a tutor lets a family
down.
"""

from __future__ import annotations

import numpy as np

from simulator.behaviour import slots_wanted
from simulator.config import (
    AT_RISK,
    DAY,
    FAILED,
    HEALTHY,
    HOUR,
    LAPSED,
    MINUTE,
    PENDING,
    REFUNDED,
    SUCCEEDED,
    THRIVING,
)
from simulator.contacts import daytime
from simulator.delivery import join, size, take
from simulator.lessons import Effects, Week
from simulator.randomness import rank_within
from simulator.writer import Batch


def _attempts(
    week: Week, who: np.ndarray, attempted_at: np.ndarray, cents: np.ndarray, status: np.ndarray
) -> tuple[Batch, Batch]:
    """Rows of payments: the versions that say pending, and the final ones."""
    rng, people = week.rng, week.customers
    n = len(who)
    sequence = people.payment_sequence[who] + rank_within(who)
    people.payment_sequence[who] = sequence + 1
    pending: Batch = {
        "payment_id": (who.astype(np.int64) + 1) * 10_000 + sequence,
        "customer_id": who.astype(np.int64) + 1,
        "attempted_at": attempted_at,
        "amount": cents.astype(np.int64),
        "currency": np.zeros(n, dtype=np.int8),
        "status": np.full(n, PENDING, dtype=np.int8),
        "updated_at": attempted_at.copy(),
        "loaded_at": week.dispatcher.loaded_at(rng, attempted_at),
    }
    final = {name: values.copy() for name, values in pending.items()}
    final["status"] = status.astype(np.int8)
    final["updated_at"] = (
        attempted_at
        + (np.exp(np.log(30) + 1.0 * rng.standard_normal(n)).clip(1, 480)).astype(np.int64) * MINUTE
    )
    first_seen = rng.random(n) < 0.7  # the others are settled before the feed picks them up
    after = np.where(first_seen, pending["loaded_at"], 0)
    final["loaded_at"] = week.dispatcher.loaded_at(rng, final["updated_at"], after)
    return take(pending, first_seen), final


def bill(week: Week, who: np.ndarray, effects: Effects) -> Batch | None:
    """Charges the customers ``who`` (ascending indices) whose fortnight ends; counts failures in ``effects``.

    Returns a few final rows for the nightly reconciliation.
    """
    rng, people, money = week.rng, week.customers, week.config.money
    state = people.state[who]
    unhappy = state >= AT_RISK
    breaks = np.array(money.card_breaks)[state] * people.card_risk[who]
    broken = people.card_broken[who]
    repaired = rng.random(len(who)) < money.card_repaired * np.where(unhappy, 0.45, 1.0)
    broken = np.where(broken, ~repaired, rng.random(len(who)) < breaks)
    people.card_broken[who] = broken

    due = (people.lessons_done[who] > 0) & ((week.number + who) % 2 == 0)
    due &= people.paused_until[who] <= week.number
    due &= (state != LAPSED) | (people.weeks_lapsed[who] < money.lapsed_billing_weeks)
    payer, payer_state, payer_broken = who[due], state[due], broken[due]
    if len(payer) == 0:
        return None
    wished = people.lessons_wished[payer]
    lessons = 2 * np.select(
        [payer_state == THRIVING, payer_state == HEALTHY],
        [slots_wanted(wished, THRIVING), slots_wanted(wished, HEALTHY)],
        1,
    )
    tier = people.tier[payer]
    price = np.rint(np.array([*week.config.marketplace.price, 45.0]) * 100).astype(np.int64)[tier]
    cents = lessons * price
    fails = np.where(payer_broken, money.failure_broken_card, money.failure_good_card)
    fails = np.where(
        payer_state == LAPSED, np.maximum(fails, money.failure_after_leaving), fails
    )  # cards are removed on leaving
    attempted = daytime(rng, week.starts + (payer % 5) * DAY, 1.0)
    newcomer = people.lessons_done[payer] <= 2  # the first charge follows the first lesson
    after_lesson = people.last_completed_at[payer] + 2 * MINUTE
    attempted = np.where(newcomer, np.maximum(attempted, after_lesson), attempted)
    rows = []
    open_ = np.ones(len(payer), dtype=bool)
    for retry in range(3):
        failed = rng.random(len(payer)) < np.where(retry > 0, np.minimum(fails * 1.05, 0.95), fails)
        status = np.where(failed, FAILED, SUCCEEDED)
        rows.append((payer[open_], attempted[open_], cents[open_], status[open_]))
        lost = open_ & failed
        effects.failed_payments[payer[lost] - week.low] += 1
        open_ = lost & (rng.random(len(payer)) < 0.9)
        attempted = attempted + ((1.6 + 1.8 * rng.random(len(payer))) * DAY).astype(np.int64)
    refund = (effects.let_down[payer - week.low] > 0) & (rng.random(len(payer)) < money.refund_share)
    refund |= (payer_state == LAPSED) & (people.weeks_lapsed[payer] <= 2) & (rng.random(len(payer)) < 0.06)
    back_at = daytime(rng, week.starts + (payer % 5) * DAY + DAY, 5.0) + HOUR
    rows.append((payer[refund], back_at[refund], price[refund], np.full(int(refund.sum()), REFUNDED)))
    everyone, moments, amounts, statuses = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.lexsort((moments, everyone))
    pending, final = _attempts(week, everyone[order], moments[order], amounts[order], statuses[order])
    week.dispatcher.send(rng, "raw_payments", join([pending, final]))
    return take(final, np.arange(min(7, size(final))))
