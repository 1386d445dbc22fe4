"""A split of one's own: which customer is in which block, and which of the customer's days count.

The split of training.split suits a marketplace that runs on. Where customers come for a period that is known
beforehand, such as a school year, everybody stops when it ends, which is no lapse; and the later blocks
should be later periods, whole, with the customers of those alone.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.errors import TrainingError
from training.split import BLOCK_NAMES, NOWHERE, Block, Blocks

COLUMNS = ("customer_id", "block", "first_day", "last_day")
_BLOCKS = {name: code for code, name in BLOCK_NAMES.items()}


@dataclass(frozen=True)
class CustomerPeriods:
    """One entry a customer, sorted by id: its block, and its days from `first_day` to `last_day`
    (datetime64[D]).
    """

    customer_ids: np.ndarray
    block: np.ndarray
    first_day: np.ndarray
    last_day: np.ndarray

    def assign(self, customer_ids: np.ndarray, snapshots: np.ndarray, label_days: int) -> np.ndarray:
        """The block of each row, or NOWHERE, int8 (rows,).

        A row is in its customer's block when the snapshot and the label, which looks `label_days` ahead, lie
        in the customer's period. A customer without an entry is nowhere.
        """
        entry = np.searchsorted(self.customer_ids, customer_ids)
        entry = np.minimum(entry, len(self.customer_ids) - 1)
        days = snapshots.astype("datetime64[D]")
        inside = (
            (self.customer_ids[entry] == customer_ids)
            & (days >= self.first_day[entry])
            & (days + np.timedelta64(label_days, "D") <= self.last_day[entry])
        )
        return np.where(inside, self.block[entry], NOWHERE).astype(np.int8)


def blocks_found(assigned: np.ndarray, snapshots: np.ndarray, label_days: int) -> Blocks:
    """The first and last snapshot (datetime64) of each block among the rows; every block has some."""
    days = snapshots.astype("datetime64[D]")
    found = {
        name: Block(days[assigned == code].min(), days[assigned == code].max())
        for code, name in BLOCK_NAMES.items()
    }
    return Blocks(**found, label_days=label_days)


def read_customer_periods(path: Path) -> CustomerPeriods:
    """The split in a CSV file with the columns COLUMNS.

    Raises TrainingError, naming file, line and column, when an entry cannot be read, a customer has two, a
    block has none, or a block begins before the one that must lie before it has ended.
    """
    entries: dict[str, tuple[int, np.datetime64, np.datetime64]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise TrainingError(f"The split {path} has no column {', '.join(missing)}.")
            for row in reader:
                customer, entry = _entry(row, f"The split {path}, line {reader.line_num}")
                if customer in entries:
                    raise TrainingError(
                        f"The split {path}, line {reader.line_num}, has customer_id {customer} again."
                    )
                entries[customer] = entry
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"The split {path} cannot be read: {error}.") from error
    ids = sorted(entries)
    periods = CustomerPeriods(
        customer_ids=np.array(ids, dtype=object),
        block=np.array([entries[customer][0] for customer in ids], dtype=np.int8),
        first_day=np.array([entries[customer][1] for customer in ids], dtype="datetime64[D]"),
        last_day=np.array([entries[customer][2] for customer in ids], dtype="datetime64[D]"),
    )
    _check_order(periods, path)
    return periods


def _entry(row: dict[str, str], where: str) -> tuple[str, tuple[int, np.datetime64, np.datetime64]]:
    if row["block"] not in _BLOCKS:
        raise TrainingError(f"{where}, column block: {row['block']!r} is none of {', '.join(_BLOCKS)}.")
    days = []
    for name in ("first_day", "last_day"):
        try:
            days.append(np.datetime64(row[name], "D"))
        except (TypeError, ValueError):
            days.append(np.datetime64("NaT"))
        if np.isnat(days[-1]):
            raise TrainingError(f"{where}, column {name}: {row[name]!r} is not a date like 2014-10-01.")
    return row["customer_id"], (_BLOCKS[row["block"]], *days)


def _check_order(periods: CustomerPeriods, path: Path) -> None:
    before = None
    for code, name in BLOCK_NAMES.items():
        of_block = periods.block == code
        if not of_block.any():
            raise TrainingError(f"The split {path} has no customer in the block {name}.")
        if before is not None and periods.first_day[of_block].min() < before[1]:
            raise TrainingError(
                f"The split {path} lets the block {name} begin on {periods.first_day[of_block].min()}, "
                f"before the block {before[0]} has ended on {before[1]}."
            )
        before = (name, periods.last_day[of_block].max())
