"""Where events come from: JSON lines in a file or from stdin, a Redis stream, a Kinesis stream.

A source hands out records and is told which are dealt with. What it was not told of it hands out again
after a restart.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from streaming.errors import StreamError
from streaming.ledger import Ledger


@dataclass(frozen=True)
class Record:
    """One event as it came."""

    place: str
    """Where, for a person: ``line 12``."""
    text: bytes
    position: str
    """What the source needs to go on after it."""


class Source(Protocol):
    """Somewhere events come from."""

    def read(self, limit: int, wait_seconds: float) -> list[Record]:
        """What is there, at most ``limit`` records; waits for the first of them, but no longer than that."""

    def commit(self, records: Sequence[Record]) -> None:
        """The records that ``read`` handed out last are dealt with."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will ever come."""


class LinesSource:
    """Lines of a file, or of a pipe such as stdin. Of a file the position is remembered; of a pipe there is
    none.

    With ``follow`` a file never ends: what is appended is read when it is there, a line when its end is.
    """

    def __init__(self, path: Path | None, ledger: Ledger, follow: bool = False) -> None:
        self._name = f"file:{path.resolve()}" if path else None
        self._ledger = ledger
        self._follow = follow and path is not None
        try:
            self._descriptor = os.open(path, os.O_RDONLY) if path else sys.stdin.fileno()
        except OSError as error:
            raise StreamError(f"The events cannot be read: {error}") from None
        self._offset, self._line = 0, 0
        if self._name:
            self._offset, self._line = json.loads(ledger.position(self._name) or "[0, 0]")
            if os.fstat(self._descriptor).st_size < self._offset:
                raise StreamError(
                    f"{path} is shorter than what was read of it; events are appended, give a new "
                    "file a new name."
                )
            os.lseek(self._descriptor, self._offset, os.SEEK_SET)
        self._held = b""
        self._is_at_end = False

    def read(self, limit: int, wait_seconds: float) -> list[Record]:
        """See ``Source``."""
        while b"\n" not in self._held and not self._is_at_end:
            if self._name is None and not select.select([self._descriptor], [], [], wait_seconds)[0]:
                return []
            chunk = os.read(self._descriptor, 1 << 20)
            self._held += chunk
            if not chunk:
                if self._follow:
                    # A regular file cannot be waited for; look again at the pace of the caller.
                    time.sleep(min(wait_seconds, 0.1))
                    return []
                self._is_at_end = True
        *lines, rest = self._held.split(b"\n", limit)
        if self._is_at_end and rest and b"\n" not in rest and len(lines) < limit:
            lines, rest = [*lines, rest], b""
            ends_without = True
        else:
            ends_without = False
        self._held = rest
        records = []
        for number, line in enumerate(lines):
            is_cut = ends_without and number == len(lines) - 1
            self._offset += len(line) + (0 if is_cut else 1)
            self._line += 1
            if line.strip():
                position = json.dumps([self._offset, self._line])
                records.append(Record(f"line {self._line}", line, position))
        return records

    def commit(self, records: Sequence[Record]) -> None:
        """See ``Source``."""
        if self._name and records:
            self._ledger.move(self._name, records[-1].position)

    @property
    def is_finished(self) -> bool:
        """See ``Source``."""
        return self._is_at_end and not self._held


class RedisSource:
    """A Redis stream, read as a consumer group: what was handed out and not acknowledged comes again.

    The event is the field ``event`` of an entry. The consumer's name must stay the same over restarts.
    """

    GROUP = "customer_health"

    def __init__(self, url: str, stream: str, consumer: str = "stream") -> None:
        import redis

        self._stream, self._consumer = stream, consumer
        self._client = redis.Redis.from_url(url)
        try:
            self._client.xgroup_create(stream, self.GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise StreamError(f"Redis stream {stream}: {error}") from None
        except redis.RedisError as error:
            raise StreamError(f"Redis at {url}: {error}") from None
        self._errors = redis.RedisError
        self._pending: str | None = "0"

    def read(self, limit: int, wait_seconds: float) -> list[Record]:
        """See ``Source``."""
        if self._pending is not None:
            records = self._read(self._pending, limit, None)
            if records:
                self._pending = records[-1].position
                return records
            self._pending = None
        return self._read(">", limit, max(1, int(wait_seconds * 1000)))

    def _read(self, after: str, limit: int, wait_ms: int | None) -> list[Record]:
        try:
            answer = self._client.xreadgroup(
                self.GROUP, self._consumer, {self._stream: after}, count=limit, block=wait_ms
            )
        except self._errors as error:
            raise StreamError(f"Redis stream {self._stream}: {error}") from None
        streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer or []]
        return [
            Record(f"entry {key.decode()}", (fields or {}).get(b"event", b""), key.decode())
            for entries in streams
            for key, fields in _entries(entries)
        ]

    def commit(self, records: Sequence[Record]) -> None:
        """See ``Source``."""
        if records:
            try:
                self._client.xack(self._stream, self.GROUP, *(record.position for record in records))
            except self._errors as error:
                raise StreamError(f"Redis stream {self._stream}: {error}") from None

    @property
    def is_finished(self) -> bool:
        """See ``Source``."""
        return False


def _entries(entries: Any) -> Iterator[tuple[bytes, dict | None]]:
    # RESP 3 nests the entries of a stream in one list more than RESP 2 does.
    for entry in entries:
        if entry and isinstance(entry[0], bytes):
            yield entry[0], entry[1]
        else:
            yield from _entries(entry)


class KinesisSource:
    """All shards of a Kinesis stream, from its oldest record on; positions are sequence numbers, in the
    ledger.
    """

    def __init__(self, stream: str, ledger: Ledger, client: Any = None) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        self._stream, self._ledger = stream, ledger
        self._errors = (BotoCoreError, ClientError)
        self._client = client or boto3.client("kinesis")
        self._iterators: dict[str, str | None] = {}
        self._next = 0
        self._find_shards()

    def read(self, limit: int, wait_seconds: float) -> list[Record]:
        """See ``Source``. Each call asks one shard, in turn; waits between rounds in which none had
        anything.
        """
        for _ in range(len(self._iterators)):
            shard = sorted(self._iterators)[self._next % len(self._iterators)]
            self._next += 1
            iterator = self._iterators[shard]
            if iterator is None:
                continue
            records = self._read(shard, iterator, limit)
            if records:
                return records
        # A shard that is split or merged ends, and others go on where it ended.
        self._find_shards()
        time.sleep(wait_seconds)
        return []

    def _read(self, shard: str, iterator: str, limit: int) -> list[Record]:
        try:
            answer = self._client.get_records(ShardIterator=iterator, Limit=min(limit, 10_000))
        except self._client.exceptions.ExpiredIteratorException:
            self._iterators[shard] = self._iterator(shard)
            return []
        except self._errors as error:
            raise StreamError(f"Kinesis stream {self._stream}: {error}") from None
        self._iterators[shard] = answer.get("NextShardIterator")
        return [
            Record(
                f"{shard}, record {record['SequenceNumber']}",
                record["Data"],
                json.dumps([shard, record["SequenceNumber"]]),
            )
            for record in answer["Records"]
        ]

    def _find_shards(self) -> None:
        try:
            pages = self._client.get_paginator("list_shards").paginate(StreamName=self._stream)
            shards = [shard["ShardId"] for page in pages for shard in page["Shards"]]
        except self._errors as error:
            raise StreamError(f"Kinesis stream {self._stream}: {error}") from None
        for shard in shards:
            if shard not in self._iterators:
                self._iterators[shard] = self._iterator(shard)

    def _iterator(self, shard: str) -> str:
        position = self._ledger.position(self._place(shard))
        start = (
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": position}
            if position
            else {"ShardIteratorType": "TRIM_HORIZON"}
        )
        try:
            return self._client.get_shard_iterator(StreamName=self._stream, ShardId=shard, **start)[
                "ShardIterator"
            ]
        except self._errors as error:
            raise StreamError(f"Kinesis stream {self._stream}, {shard}: {error}") from None

    def _place(self, shard: str) -> str:
        return f"kinesis:{self._stream}/{shard}"

    def commit(self, records: Sequence[Record]) -> None:
        """See ``Source``."""
        for shard, position in dict(json.loads(record.position) for record in records).items():
            self._ledger.move(self._place(shard), position)

    @property
    def is_finished(self) -> bool:
        """See ``Source``."""
        return False
