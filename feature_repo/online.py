"""The rows of the online stores, written and deleted in bulk in the formats of Feast's own stores.

Feast's interface to an online store writes value by value and cannot delete one customer's row. Both are
here, for SQLite and Redis, in the format that Feast documents (docs/specs/online_store_format.md in its
repository): its own stores read what is written here, whatever the client.
"""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path

import mmh3
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.infra.online_stores.helpers import compute_table_id, compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType
from feast.infra.online_stores.sqlite import SqliteOnlineStore, adapt_datetime_epoch
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.encoding import KEY_VERSION, encode_column, entity_keys

WriteBatch = Callable[[pa.RecordBatch], None]
LOCK_SECONDS = 60
"""How long a writer waits for another one to finish its batch."""


class OnlineRows(ABC):
    """The rows of the feature views in one online store."""

    @abstractmethod
    def writing(self, view: FeatureView) -> contextlib.AbstractContextManager[WriteBatch]:
        """Gives a function that writes a batch of the view: its join key, its features, its timestamp.

        A customer's row is replaced as a whole, so no reader ever sees a part of it, and a killed writer
        leaves each row old or new. A row that holds a later event, pushed since, stays.
        """

    @abstractmethod
    def delete_expired(self, views: Sequence[FeatureView], before: datetime) -> set[bytes]:
        """Delete the rows whose event lies before that time; returns their entity keys."""

    @abstractmethod
    def delete(self, views: Sequence[FeatureView], customers: list[str]) -> int:
        """Delete all rows of the customers; returns how many there were (one a customer and view)."""


def online_rows(config: RepoConfig, store: OnlineStore) -> OnlineRows | None:
    """The rows in the online store that is configured; None where it is neither SQLite nor Redis (a cluster
    does not count) in the plain form."""
    online = config.online_store
    if config.entity_key_serialization_version != KEY_VERSION:
        return None
    if isinstance(store, SqliteOnlineStore):
        plain = not (online.vector_enabled or online.enable_openai_compatible_store)
        return SqliteRows(config) if plain else None
    if isinstance(store, RedisOnlineStore) and online.redis_type != RedisType.redis_cluster:
        return RedisRows(config, store)
    return None


class SqliteRows(OnlineRows):
    """Rows in Feast's SQLite store: a table a view, with a row a customer and feature."""

    def __init__(self, config: RepoConfig) -> None:
        self.config = config
        self.path = Path(config.repo_path or ".") / config.online_store.path

    @contextlib.contextmanager
    def writing(self, view: FeatureView) -> Iterator[WriteBatch]:
        """See ``OnlineRows.writing``."""
        features = sorted(view.features, key=lambda field: field.name)  # the order of the primary key
        statement = self._statement(view, [field.name for field in features])
        with self._connection() as connection:

            def write(batch: pa.RecordBatch) -> None:
                keys = entity_keys(view.join_keys[0], batch.column(view.join_keys[0]).to_pylist())
                times = _by_distinct(
                    batch.column(view.batch_source.timestamp_field),
                    lambda time: adapt_datetime_epoch(in_utc(time).replace(tzinfo=None)),
                )
                columns: list[Iterable] = [keys, times]
                for field in features:
                    column = encode_column(batch.column(field.name), field.dtype.to_value_type(), texts=True)
                    columns += [column.values, column.texts]
                with _transaction(connection):
                    connection.executemany(statement, zip(*columns, strict=True))

            yield write

    def delete_expired(self, views: Sequence[FeatureView], before: datetime) -> set[bytes]:
        """See ``OnlineRows.delete_expired``."""
        deleted: set[bytes] = set()
        bound = adapt_datetime_epoch(in_utc(before).replace(tzinfo=None))
        with self._connection() as connection:
            for view in views:
                with _transaction(connection):
                    rows = connection.execute(
                        f"select distinct entity_key from {self._table(view)} where event_ts < ?", [bound]
                    ).fetchall()
                    if rows:
                        connection.execute(f"delete from {self._table(view)} where event_ts < ?", [bound])
                deleted.update(row[0] for row in rows)
        return deleted

    def delete(self, views: Sequence[FeatureView], customers: list[str]) -> int:
        """See ``OnlineRows.delete``."""
        deleted = 0
        with self._connection() as connection:
            # The bytes of a deleted row stay in the file until something is written over them.
            connection.execute("pragma secure_delete = on")
            for view in views:
                keys = [[key] for key in entity_keys(view.join_keys[0], customers)]
                with _transaction(connection):
                    for key in keys:
                        cursor = connection.execute(
                            f"delete from {self._table(view)} where entity_key = ?", key
                        )
                        deleted += cursor.rowcount > 0
            # And what was written stays in the log until that starts again.
            connection.execute("pragma wal_checkpoint(truncate)").fetchall()
        return deleted

    def _table(self, view: FeatureView) -> str:
        versioning = self.config.registry.enable_online_feature_view_versioning
        return '"' + compute_table_id(self.config.project, view, versioning).replace('"', '""') + '"'

    def _statement(self, view: FeatureView, names: list[str]) -> str:
        # One statement a customer rather than a feature: a third of the time. ?1 is the key, ?2 the time.
        rows = ", ".join(
            "(?1, '{}', ?{}, ?{}, ?2, null)".format(name.replace("'", "''"), 2 * index + 3, 2 * index + 4)
            for index, name in enumerate(names)
        )
        columns = ("value", "value_text", "event_ts", "created_ts")
        return (
            f"insert into {self._table(view)} (entity_key, feature_name, {', '.join(columns)}) values {rows} "
            f"on conflict (entity_key, feature_name) do update set "
            + ", ".join(f"{column} = excluded.{column}" for column in columns)
            + " where excluded.event_ts >= event_ts"
        )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=LOCK_SECONDS, isolation_level=None)
        try:
            # With a write-ahead log readers go on while a batch is written. The mode is the file's own.
            connection.execute("pragma journal_mode = wal").fetchall()
            # A power cut may take the last batches and never the file's consistency; a repeat restores them.
            connection.execute("pragma synchronous = normal")
            connection.execute("pragma cache_size = -65536")
            yield connection
        finally:
            connection.close()


class RedisRows(OnlineRows):
    """Rows in Feast's Redis store: a hash a customer, with a field a feature and one a view for its time."""

    def __init__(self, config: RepoConfig, store: RedisOnlineStore) -> None:
        self.config = config
        self.client = store._get_client(config.online_store)  # as the connection string says
        self.project = config.project.encode()

    @contextlib.contextmanager
    def writing(self, view: FeatureView) -> Iterator[WriteBatch]:
        """See ``OnlineRows.writing``."""
        clock = self._clock(view)
        heads = {field.name: _bulk(self._field(view, field.name)) for field in view.features}
        size = 2 + 2 * (1 + len(view.features))
        hset = b"*%d\r\n%b" % (size, _bulk(b"HSET"))
        seconds = self.config.online_store.key_ttl_seconds
        expire = b"*3\r\n" + _bulk(b"EXPIRE"), _bulk(b"%d" % seconds) if seconds else b""

        def write(batch: pa.RecordBatch) -> None:
            batch = self._not_older(view, batch)
            keys = list(map(_bulk, self._keys(view, batch.column(view.join_keys[0]).to_pylist())))
            times = _by_distinct(
                batch.column(view.batch_source.timestamp_field),
                lambda time: _bulk(clock) + _bulk(_timestamp(time).SerializeToString()),
            )
            columns: list[Iterable[bytes]] = [repeat(hset, len(keys)), keys, times]
            for field in view.features:
                values = encode_column(batch.column(field.name), field.dtype.to_value_type()).values
                head = heads[field.name]
                columns.append([b"%b$%d\r\n%b\r\n" % (head, len(value), value) for value in values])
            if seconds:
                columns += [repeat(expire[0], len(keys)), keys, repeat(expire[1], len(keys))]
            commands = b"".join(chain.from_iterable(zip(*columns, strict=True)))
            self._send(commands, len(keys) * (2 if seconds else 1))

        yield write

    def delete_expired(self, views: Sequence[FeatureView], before: datetime) -> set[bytes]:
        """See ``OnlineRows.delete_expired``."""
        bound = _timestamp(before).ToNanoseconds()
        clocks = [self._clock(view) for view in views]
        deleted: set[bytes] = set()
        for keys in self._all_keys(views[0]):
            with self.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, clocks)
                found = pipe.execute()
                for key, times in zip(keys, found, strict=True):
                    for view, time in zip(views, times, strict=True):
                        if time is not None and Timestamp.FromString(time).ToNanoseconds() < bound:
                            pipe.hdel(key, *self._fields(view))  # with the last field goes the key
                            deleted.add(key.removesuffix(self.project))
                pipe.execute()
        return deleted

    def delete(self, views: Sequence[FeatureView], customers: list[str]) -> int:
        """See ``OnlineRows.delete``."""
        with self.client.pipeline(transaction=False) as pipe:
            for view in views:
                for key in self._keys(view, customers):
                    pipe.hdel(key, *self._fields(view))
            deleted = sum(count > 0 for count in pipe.execute())
            for key in self._keys(views[0], customers):
                pipe.delete(key)  # and what views that are gone may have left
            pipe.execute()
        return deleted

    def _not_older(self, view: FeatureView, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of the batch in whose place no later event is stored."""
        keys = self._keys(view, batch.column(view.join_keys[0]).to_pylist())
        head, clock = b"*3\r\n" + _bulk(b"HGET"), _bulk(self._clock(view))
        replies = self._send(b"".join(head + _bulk(key) + clock for key in keys), len(keys))
        times = _by_distinct(
            batch.column(view.batch_source.timestamp_field), lambda time: _timestamp(time).ToNanoseconds()
        )
        stored = {reply: reply and Timestamp.FromString(reply).ToNanoseconds() for reply in set(replies)}
        keep = [
            stored[reply] is None or stored[reply] <= time for reply, time in zip(replies, times, strict=True)
        ]
        return batch if all(keep) else batch.filter(pa.array(keep))

    def _send(self, commands: bytes, count: int) -> list:
        """Send `count` commands at once and return the replies; raises the first error among them."""
        connection = self.client.connection_pool.get_connection()
        try:
            connection.send_packed_command([commands])
            return [connection.read_response(disable_decoding=True) for _ in range(count)]
        except BaseException:
            connection.disconnect()  # there may be replies left in it
            raise
        finally:
            self.client.connection_pool.release(connection)

    def _keys(self, view: FeatureView, customers: list[str]) -> list[bytes]:
        return [key + self.project for key in entity_keys(view.join_keys[0], customers)]

    def _all_keys(self, view: FeatureView) -> Iterator[list[bytes]]:
        prefix = serialize_entity_key_prefix(list(view.join_keys), KEY_VERSION)
        pattern = b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte]) for byte in prefix)
        cursor = None
        while cursor != 0:
            cursor, keys = self.client.scan(cursor or 0, match=pattern + b"*" + self.project, count=5_000)
            if keys:
                yield keys

    def _name(self, view: FeatureView) -> str:
        return compute_versioned_name(view, self.config.registry.enable_online_feature_view_versioning)

    def _clock(self, view: FeatureView) -> bytes:
        return f"_ts:{self._name(view)}".encode()

    def _field(self, view: FeatureView, feature: str) -> bytes:
        return mmh3.hash(f"{self._name(view)}:{feature}", signed=False).to_bytes(4, "little")

    def _fields(self, view: FeatureView) -> list[bytes]:
        return [self._clock(view), *(self._field(view, field.name) for field in view.features)]


def _bulk(value: bytes) -> bytes:
    """A string as Redis's protocol has it."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def in_utc(time: datetime) -> datetime:
    """The time in UTC; one without a time zone is in UTC already."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(in_utc(time))
    return timestamp


def _by_distinct(column: pa.Array, convert: Callable[[datetime], object]) -> list:
    """The converted times of a column, each distinct one converted once."""
    times = column.cast(pa.timestamp("us", column.type.tz)).to_pylist()
    converted = {time: convert(time) for time in set(times)}
    return [converted[time] for time in times]


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")
