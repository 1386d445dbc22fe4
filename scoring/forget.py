"""`python -m scoring forget CUSTOMER_ID`: remove every trace of a customer, and see that none comes back.

In this order: warehouse (one transaction, with the note that bars the customer from coming back), Parquet
exports for Feast (each file replaced whole), the training export (replaced whole), online store, what the
stream remembers. No stream may run meanwhile. A run that was killed in between is repeated and goes on.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import redis

from feature_repo.catalog import load_catalog
from feature_repo.paths import PARTIAL, feature_export_dir, stream_dir, training_export_dir, warehouse_path
from feature_repo.row_groups import set_row_group_size
from feature_repo.store import StoreError, forget_online, open_store
from streaming.forget import forget_in_stream, no_stream
from streaming.locks import FolderInUseError
from training.errors import TrainingError
from training.export_files import remove_customer

LOG = "raw.forgotten_customers"
"""Append-only: for each forgetting the salted hash of the id, the time, and for each place the rows removed.

`macros/raw_contract.sql` leaves out the raw rows of those whose hash is here. The salt is one a warehouse, so
that the hashes of two companies cannot be compared.
"""


_KEYS = "staging.base_customer_arrivals"
_SURROGATE_KEY = "customer_key"
"""Intermediate tables know customers by a number (`macros/surrogate_keys.sql`): `_KEYS` says by which."""


class ForgetError(Exception):
    """A customer could not be forgotten; the message is one sentence that says why."""


def forget(customer: str) -> dict[str, int]:
    """Remove every trace of the customer; returns the rows removed, by place.

    Raises ForgetError when the customer is unknown everywhere and was never forgotten, or when a place cannot
    be reached: then the command is to be repeated.
    """
    path = warehouse_path()
    if not path.exists():
        raise ForgetError(f"There is no warehouse at {path}.")
    catalog = load_catalog()
    key = catalog.entity_key
    try:
        # A stream has the customer in memory, and would serve what it has.
        with no_stream(stream_dir()), duckdb.connect(str(path)) as connection:
            set_row_group_size(connection)
            removed, known = _from_warehouse(connection, customer, key)
            further = {
                f"export {folder.name}": _from_exports(connection, folder, customer, key)
                for folder in sorted(feature_export_dir().glob("*"))
                if folder.is_dir()
            }
            further["training export"] = remove_customer(training_export_dir(), catalog, customer)
            store = open_store()
            further[f"online store ({store.config.online_store.type})"] = forget_online(store, customer)
            further |= forget_in_stream(stream_dir(), customer)
            further = {place: count for place, count in further.items() if count}
            if not (known or removed or further):
                raise ForgetError(f"There is no customer {customer!r}: nothing holds that id.")
            _note(connection, customer, further)
            # What was deleted leaves the file, and not only the tables.
            connection.execute("force checkpoint")
    except FolderInUseError as error:
        raise ForgetError(f"{error}; stop it, repeat the command, and start it again.") from None
    except duckdb.IOException as error:
        raise ForgetError(
            f"{path} cannot be opened, perhaps because another process has it open: {error}"
        ) from error
    except TrainingError as error:
        raise ForgetError(
            f"The training export may still hold {customer!r}, delete it and repeat the command: {error}"
        ) from error
    except (StoreError, redis.RedisError) as error:
        raise ForgetError(
            f"The online store may still hold {customer!r}, repeat the command: {error}"
        ) from error
    return removed | further


def _from_warehouse(
    connection: duckdb.DuckDBPyConnection, customer: str, key: str
) -> tuple[dict[str, int], bool]:
    """Delete the customer from every table, in one transaction; also tells whether it was done before."""
    columns = connection.execute(
        """
        select format('"{}"."{}"', schema_name, table_name), schema_name || '.' || table_name, column_name
        from duckdb_columns() inner join duckdb_tables() using (schema_name, table_name)
        where column_name in (?, ?) order by all
        """,
        [key, _SURROGATE_KEY],
    ).fetchall()
    values = {key: customer}
    if (_KEYS, _SURROGATE_KEY) in {(name, column) for _, name, column in columns}:
        number = connection.execute(
            f"select {_SURROGATE_KEY} from {_KEYS} where {key} = ?", [customer]
        ).fetchone()
        if number:
            values[_SURROGATE_KEY] = number[0]
    connection.execute("create schema if not exists raw")
    connection.execute(
        f"create table if not exists {LOG} "
        "(salt varchar, customer_hash varchar, forgotten_at timestamp with time zone, place varchar, "
        "removed bigint)"
    )
    known = connection.execute(
        f"select count(*) from {LOG} where customer_hash = sha256(salt || ?)", [customer]
    ).fetchone()[0]
    with _transaction(connection):
        counts: Counter[str] = Counter()
        for table, name, column in columns:
            if column in values:
                deleted = connection.execute(f"delete from {table} where {column} = ?", [values[column]])
                counts[name] += deleted.fetchone()[0]
        removed = {name: count for name, count in counts.items() if count}
        _note(connection, customer, removed)
    return removed, bool(known)


def _from_exports(connection: duckdb.DuckDBPyConnection, folder: Path, customer: str, key: str) -> int:
    """Rewrite the files of an export that hold the customer, each beside its place and then renamed."""
    removed = 0
    for file in sorted(folder.glob("*.parquet")):
        held = connection.execute(
            f"select count(*) from read_parquet(?) where {key} = ?", [str(file), customer]
        ).fetchone()[0]
        if held:
            partial = file.with_name(f"{file.name}{PARTIAL}")
            connection.execute(
                f"copy (select * from read_parquet(?) where {key} <> ? order by feature_timestamp, {key}) "
                f"to '{partial}' (format parquet, compression zstd)",
                [str(file), customer],
            )
            partial.replace(file)
        removed += held
    return removed


def _note(connection: duckdb.DuckDBPyConnection, customer: str, removed: dict[str, int]) -> None:
    salts = connection.execute(f"select salt from {LOG} limit 1").fetchall()
    salt = salts[0][0] if salts else secrets.token_hex(16)
    for place, count in removed.items():
        connection.execute(
            f"insert into {LOG} select ?, sha256(?::varchar || ?), now(), ?, ?",
            [salt, salt, customer, place, count],
        )


@contextlib.contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
