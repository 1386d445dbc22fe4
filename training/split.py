"""Who and when: fit on the past, choose on a later block, report on a still later block with customers never
seen.

Time. The report block is the last mature snapshots. The choose block ends early enough for every one of its
labels to be known when the report block starts, and the fit block likewise before the choose block. So no
label window reaches into a later block.

Customers. Each belongs to one group for ever, by a hash of its id: no version of any model ever fits on or
chooses with a customer of the report group, which is what makes figures of different versions comparable. The
choose block has a group of its own too: early stopping and calibration on customers that the trees have
memorised would both be too confident.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil

import numpy as np

from training.errors import TrainingError

NOWHERE, FIT, CHOOSE, REPORT = 0, 1, 2, 3
BLOCK_NAMES = {FIT: "fit", CHOOSE: "choose", REPORT: "report"}

# Of a hundred: 0-19 report, 20-34 choose, the rest fit.
REPORT_PERCENT = 20
CHOOSE_PERCENT = 15
MIN_FIT_WEEKS = 8

_WEEK = np.timedelta64(7, "D")


@dataclass(frozen=True)
class Block:
    """Snapshots from `first` to `last`, both included (datetime64[D])."""

    first: np.datetime64
    last: np.datetime64


@dataclass(frozen=True)
class Blocks:
    """The three blocks of one model, and the days that its label looks ahead."""

    fit: Block
    choose: Block
    report: Block
    label_days: int

    @property
    def trained_until(self) -> np.datetime64:
        """The last moment whose data the model learned from: the end of the last label window of the choose
        block.
        """
        return self.choose.last + np.timedelta64(self.label_days, "D")


def split_time(
    first_snapshot: np.datetime64,
    data_end: np.datetime64,
    label_days: int,
    choose_weeks: int,
    report_weeks: int,
) -> Blocks:
    """The three blocks of Mondays between `first_snapshot` and `data_end` (datetime64[D]).

    Raises TrainingError when fewer than MIN_FIT_WEEKS Mondays are left to fit on.
    """
    horizon = np.timedelta64(label_days, "D")
    report_last = _monday_on_or_before(data_end - horizon)
    report_first = report_last - (report_weeks - 1) * _WEEK
    choose_last = _monday_on_or_before(report_first - horizon)
    choose_first = choose_last - (choose_weeks - 1) * _WEEK
    fit_last = _monday_on_or_before(choose_first - horizon)
    fit_first = _monday_on_or_after(first_snapshot)
    least = fit_first + (MIN_FIT_WEEKS - 1) * _WEEK
    if fit_last < least:
        present = int((data_end - fit_first).astype(int))
        lacking = ceil((least - fit_last) / np.timedelta64(1, "D"))
        raise TrainingError(
            f"a label of {label_days} days needs {present + lacking} days of snapshots to fit, choose and "
            f"report without overlap, and there are {present}, from {fit_first} to {data_end}"
        )
    return Blocks(
        Block(fit_first, fit_last),
        Block(choose_first, choose_last),
        Block(report_first, report_last),
        label_days,
    )


def customer_hashes(customer_ids: Iterable[str]) -> np.ndarray:
    """A stable 63-bit hash a customer, int64 (customers,): equal on every machine, in every version."""
    digests = (blake2b(str(customer).encode("utf-8"), digest_size=8).digest() for customer in customer_ids)
    return np.array([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=np.int64)


def customer_groups(hashes: np.ndarray) -> np.ndarray:
    """FIT, CHOOSE or REPORT for each hash, int8 (customers,)."""
    percentile = hashes % 100
    return np.select(
        [percentile < REPORT_PERCENT, percentile < REPORT_PERCENT + CHOOSE_PERCENT], [REPORT, CHOOSE], FIT
    ).astype(np.int8)


def assign(hashes: np.ndarray, snapshots: np.ndarray, blocks: Blocks) -> np.ndarray:
    """The block of each row: FIT, CHOOSE, REPORT, or NOWHERE, int8 (rows,).

    A row is in a block when both its snapshot (datetime64) and its customer's group are.
    """
    groups = customer_groups(hashes)
    days = snapshots.astype("datetime64[D]")
    assigned = np.full(len(groups), NOWHERE, dtype=np.int8)
    for code, block in ((FIT, blocks.fit), (CHOOSE, blocks.choose), (REPORT, blocks.report)):
        assigned[(groups == code) & (days >= block.first) & (days <= block.last)] = code
    return assigned


def thin(assigned: np.ndarray, hashes: np.ndarray, snapshots: np.ndarray, most: int) -> np.ndarray:
    """`assigned` with at most about `most` fit rows: every k-th week of each customer, others become NOWHERE.

    Neighbouring weeks of a customer say nearly the same, so leaving some out costs little; each customer
    starts at a week of its own, so every week of the calendar stays represented.
    """
    fit = assigned == FIT
    every = ceil(fit.sum() / most)
    if every <= 1:
        return assigned
    weeks = snapshots.astype("datetime64[D]").astype(np.int64) // 7
    dropped = fit & ((weeks + hashes // 100) % every != 0)
    return np.where(dropped, NOWHERE, assigned).astype(np.int8)


def _monday_on_or_before(day: np.datetime64) -> np.datetime64:
    # 1970-01-01 was a Thursday: Mondays are the days with number 4 modulo 7.
    return day - np.timedelta64(int((day.astype("datetime64[D]").astype(np.int64) - 4) % 7), "D")


def _monday_on_or_after(day: np.datetime64) -> np.datetime64:
    return _monday_on_or_before(day + np.timedelta64(6, "D"))
