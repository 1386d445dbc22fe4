"""What the stream remembers over a stop: positions in its sources, what it published, what it told.

A SQLite file. Each method is one transaction; when it returns, the disk has it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from streaming.alerts import RULES, Alert, crossing, sides

TICK = timedelta(microseconds=1)
"""Two publications of a customer are at least so far apart: Redis ignores a row that is not newer than what
it has.
"""

LEDGER_FILE = "ledger.sqlite"
"""Its name in the stream's folder."""

_SCHEMA = """
create table if not exists positions (source text primary key, position text not null);
create table if not exists publications (
    customer_id text primary key, snapshot text not null, known_at text not null
);
create table if not exists sides (
    customer_id text, rule text, is_alert integer not null, known_at text not null,
    primary key (customer_id, rule)
);
create table if not exists outbox (
    alert_id text, sink text, customer_id text not null, message text not null,
    is_sent integer not null default 0,
    primary key (alert_id, sink)
);
create index if not exists unsent on outbox (sink) where not is_sent;
create table if not exists nights (snapshot text primary key);
"""


class Ledger:
    """The memory of one stream."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.executescript(f"pragma journal_mode = wal; pragma synchronous = full; {_SCHEMA}")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # === Positions ==========================================================================================

    def position(self, source: str) -> str | None:
        """Up to where a source was read and all of it dealt with."""
        row = self._connection.execute("select position from positions where source = ?", [source]).fetchone()
        return row[0] if row else None

    def move(self, source: str, position: str) -> None:
        """Remember a position."""
        self._connection.execute(
            "insert into positions values (?, ?) on conflict (source) do update set position = "
            "excluded.position",
            [source, position],
        )

    # === Publications =======================================================================================

    def reserve(self, customers: Sequence[str], snapshot: date, known_at: datetime) -> dict[str, datetime]:
        """When each customer's next row is to have been known: now, but after the row before and short of
        the snapshot.

        Noted before the rows go out, so that after a kill no other row goes out under the same time.
        """
        first = datetime.combine(snapshot, datetime.min.time()) - timedelta(days=1) + TICK
        last = first + timedelta(days=1) - 2 * TICK
        reserved = {}
        with self._transaction() as run:
            for customer in customers:
                before = run("select known_at from publications where customer_id = ?", [customer]).fetchone()
                earliest = max(first, datetime.fromisoformat(before[0]) + TICK) if before else first
                reserved[customer] = min(max(known_at, earliest), last)
                run(
                    "insert into publications values (?, ?, ?) on conflict (customer_id) do update "
                    "set snapshot = excluded.snapshot, known_at = excluded.known_at",
                    [customer, snapshot.isoformat(), reserved[customer].isoformat()],
                )
        return reserved

    def published(self, snapshot: date) -> list[str]:
        """The customers of whom a row for this snapshot went out."""
        rows = self._connection.execute(
            "select customer_id from publications where snapshot = ? order by 1", [snapshot.isoformat()]
        ).fetchall()
        return [customer for (customer,) in rows]

    # === Alerts =============================================================================================

    def observed(self, snapshot: date) -> bool:
        """Whether the night of this snapshot was observed."""
        return (
            self._connection.execute(
                "select 1 from nights where snapshot = ?", [snapshot.isoformat()]
            ).fetchone()
            is not None
        )

    def observe(
        self,
        rows: Iterable[Mapping[str, Any]],
        known_at: Mapping[str, datetime],
        sinks: Sequence[str],
        night: date | None = None,
    ) -> list[Alert]:
        """Compare rows with the last known side of each customer; write down the new ones and an alert a
        crossing.

        A customer without a known side was on the calm one. Sides and outbox change in one transaction,
        with the night when the rows are a night's; those of the first night are taken as they are, because
        a first start is no crossing.
        """
        alerts: list[Alert] = []
        with self._transaction() as run:
            # Rules of which nothing was known of anybody before this night: what it shows is no crossing.
            known = {rule for (rule,) in run("select distinct rule from sides").fetchall()}
            for row in rows:
                customer = row["customer_id"]
                moment = known_at[customer]
                before = {
                    rule: (bool(is_alert), at)
                    for rule, is_alert, at in run(
                        "select rule, is_alert, known_at from sides where customer_id = ?", [customer]
                    ).fetchall()
                }
                now = sides(row)
                for rule in RULES:
                    if rule.name not in now:
                        continue
                    was, since = before.get(rule.name, (False, ""))
                    if (
                        since > moment.isoformat()
                    ):  # a night that ends after the row for the next one went out
                        continue
                    run(
                        "insert into sides values (?, ?, ?, ?) on conflict (customer_id, rule) do update "
                        "set is_alert = excluded.is_alert, known_at = excluded.known_at",
                        [customer, rule.name, now[rule.name], moment.isoformat()],
                    )
                    if now[rule.name] and not was and (night is None or rule.name in known):
                        alerts.append(crossing(rule, customer, moment, row))
            for alert in alerts:
                for sink in sinks:
                    run(
                        "insert or ignore into outbox values (?, ?, ?, ?, 0)",
                        [alert.alert_id, sink, alert.customer_id, alert.message],
                    )
            if night is not None:
                run("insert or ignore into nights values (?)", [night.isoformat()])
        return alerts

    def forget(self, customer: str) -> int:
        """Delete every trace of a customer; returns how many rows there were. An alert not yet sent is not
        sent.
        """
        with self._transaction() as run:
            run("pragma secure_delete = on")
            return sum(
                run(f"delete from {table} where customer_id = ?", [customer]).rowcount
                for table in ("publications", "sides", "outbox")
            )

    def unsent(self, sink: str) -> list[tuple[str, str]]:
        """Alert ids and messages that a sink has not taken yet, oldest first."""
        return self._connection.execute(
            "select alert_id, message from outbox where sink = ? and not is_sent order by rowid", [sink]
        ).fetchall()

    def sent(self, sink: str, alert_id: str) -> None:
        """Note that a sink took an alert."""
        self._connection.execute(
            "update outbox set is_sent = 1 where sink = ? and alert_id = ?", [sink, alert_id]
        )

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        self._connection.execute("begin immediate")
        try:
            yield self._connection.execute
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")
