"""A split of one's own: which customer is in which block, and which of the customer's days count.

The split of training.split suits a marketplace that runs on. Where customers come for a period that is known
beforehand, such as a school year, everybody stops when it ends, which is no lapse; and the later blocks
should be later periods, whole, with the customers of those alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scoring.release import SPLIT_FILE, Release, ReleaseError, read_split, release_dir
from training.errors import TrainingError
from training.split import BLOCK_NAMES, NOWHERE, Block, Blocks, customer_hashes

COLUMNS = ("customer_id", "block", "first_day", "last_day")
# In a release customers go by their hashes: it never changes, and may not keep an id that is to be forgotten.
RELEASED_COLUMNS = ("customer_hash", *COLUMNS[1:])
_BLOCKS = {name: code for code, name in BLOCK_NAMES.items()}


@dataclass(frozen=True)
class CustomerPeriods:
    """One entry a customer, sorted by the hash of the id (training.split.customer_hashes): its block, and its
    days from `first_day` to `last_day` (datetime64[D]).
    """

    hashes: np.ndarray
    block: np.ndarray
    first_day: np.ndarray
    last_day: np.ndarray

    def assign(self, hashes: np.ndarray, snapshots: np.ndarray, label_days: int) -> np.ndarray:
        """The block of each row (the customer's hash, a snapshot), or NOWHERE, int8 (rows,).

        A row is in its customer's block when the snapshot and the label, which looks `label_days` ahead, lie
        in the customer's period. A customer without an entry is nowhere.
        """
        entry = np.searchsorted(self.hashes, hashes)
        entry = np.minimum(entry, len(self.hashes) - 1)
        days = snapshots.astype("datetime64[D]")
        inside = (
            (self.hashes[entry] == hashes)
            & (days >= self.first_day[entry])
            & (days + np.timedelta64(label_days, "D") <= self.last_day[entry])
        )
        return np.where(inside, self.block[entry], NOWHERE).astype(np.int8)

    def released(self) -> str:
        """The same as CSV with RELEASED_COLUMNS, for the release of what was trained on it."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(RELEASED_COLUMNS)
        blocks = [BLOCK_NAMES[code] for code in self.block.tolist()]
        writer.writerows(zip(self.hashes.tolist(), blocks, self.first_day, self.last_day, strict=True))
        return text.getvalue()


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
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _read(file, f"The split {path}", COLUMNS, lambda ids: customer_hashes(ids).tolist())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"The split {path} cannot be read: {error}.") from error


def released_periods(release: Release, models_dir: Path) -> CustomerPeriods | None:
    """The split that the release was trained and judged by; None: that of training.split.

    Raises ReleaseError when the release's file is missing or altered.
    """
    text = read_split(models_dir, release)
    if text is None:
        return None
    path = release_dir(models_dir, release.model_version) / SPLIT_FILE
    try:
        return _read(io.StringIO(text, newline=""), f"The split {path}", RELEASED_COLUMNS, _numbers)
    except (TrainingError, ValueError, csv.Error) as error:
        raise ReleaseError(f"{path} is not the split of a release: {error}") from error


def _numbers(texts: Iterable[str]) -> list[int]:
    return [int(text) for text in texts]


def _read(
    lines: Iterable[str], named: str, columns: tuple[str, ...], hashed: Callable[[list[str]], list[int]]
) -> CustomerPeriods:
    """The split in the lines of a CSV file; `hashed` turns the first column into hashes."""
    key = columns[0]
    entries: dict[str, tuple[int, np.datetime64, np.datetime64]] = {}
    reader = csv.DictReader(lines)
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        raise TrainingError(f"{named} has no column {', '.join(missing)}.")
    for row in reader:
        where = f"{named}, line {reader.line_num}"
        entry = _entry(row, where)
        if row[key] in entries:
            raise TrainingError(f"{where}, has {key} {row[key]} again.")
        entries[row[key]] = entry
    by_hash = dict(sorted(zip(hashed(list(entries)), entries.values(), strict=True)))
    blocks, first_days, last_days = zip(*by_hash.values(), strict=True) if by_hash else ((), (), ())
    periods = CustomerPeriods(
        hashes=np.array(list(by_hash), dtype=np.int64),
        block=np.array(blocks, dtype=np.int8),
        first_day=np.array(first_days, dtype="datetime64[D]"),
        last_day=np.array(last_days, dtype="datetime64[D]"),
    )
    _check_order(periods, named)
    return periods


def _entry(row: dict[str, str], where: str) -> tuple[int, np.datetime64, np.datetime64]:
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
    return _BLOCKS[row["block"]], *days


def _check_order(periods: CustomerPeriods, named: str) -> None:
    before = None
    for code, name in BLOCK_NAMES.items():
        of_block = periods.block == code
        if not of_block.any():
            raise TrainingError(f"{named} has no customer in the block {name}.")
        if before is not None and periods.first_day[of_block].min() < before[1]:
            raise TrainingError(
                f"{named} lets the block {name} begin on {periods.first_day[of_block].min()}, "
                f"before the block {before[0]} has ended on {before[1]}."
            )
        before = (name, periods.last_day[of_block].max())
