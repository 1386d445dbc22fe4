"""Remove a customer from what the stream remembers; a step of `python -m scoring forget`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import duckdb

from feature_repo.files import write_whole
from streaming.contract import CUSTOMER
from streaming.history import HISTORY_FILE
from streaming.ledger import LEDGER_FILE, Ledger
from streaming.locks import lock_folder
from streaming.service import DEAD_LETTERS_FILE


@contextlib.contextmanager
def no_stream(folder: Path) -> Iterator[None]:
    """Keep every stream from running in the folder meanwhile, also where none ever ran.

    Raises ``streaming.locks.FolderInUseError`` when one is running.
    """
    if not folder.is_dir():
        yield
        return
    with lock_folder(folder):
        yield


def forget_in_stream(folder: Path, customer: str) -> dict[str, int]:
    """Remove the customer from ledger, history and dead letters; returns the rows removed, by place.

    The copy of the history is deleted when it holds the customer: the stream makes it again at each start.
    """
    removed = {
        "stream ledger": _from_ledger(folder / LEDGER_FILE, customer),
        "stream history": _from_history(folder / HISTORY_FILE, customer),
        "stream dead letters": _from_dead_letters(folder / DEAD_LETTERS_FILE, customer),
    }
    return {place: count for place, count in removed.items() if count}


def _from_ledger(file: Path, customer: str) -> int:
    if not file.exists():
        return 0
    ledger = Ledger(file)
    try:
        return ledger.forget(customer)
    finally:
        ledger.close()


def _from_history(file: Path, customer: str) -> int:
    if not file.exists():
        return 0
    with duckdb.connect(str(file)) as connection:
        tables = connection.execute(
            "select distinct table_name from duckdb_columns() where column_name = ?", [CUSTOMER]
        ).fetchall()
        count = sum(
            connection.execute(f"select count(*) from {table} where {CUSTOMER} = ?", [customer]).fetchone()[0]
            for (table,) in tables
        )
    if count:
        for path in (file, file.with_name(f"{file.name}.wal")):
            path.unlink(missing_ok=True)
    return count


def _from_dead_letters(file: Path, customer: str) -> int:
    """Letters have not the form of a table, so every one that has the id somewhere goes."""
    if not file.exists():
        return 0
    letters = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [letter for letter in letters if customer not in json.loads(letter)["text"]]
    if len(kept) < len(letters):
        write_whole(file, "".join(kept))
    return len(letters) - len(kept)
