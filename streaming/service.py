"""The stream: one batch of events after another, from the raw feed to the online store and to the alerts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from feature_repo.build import TTL
from feature_repo.files import sync
from feature_repo.paths import raw_data_dir, warehouse_path
from feature_repo.store import StoreError
from streaming.contract import CUSTOMER, Event, EventError, parse_event
from streaming.errors import StreamError
from streaming.features import AT_ONCE, CustomerFeatures
from streaming.feed import RawFeed
from streaming.history import HISTORY, HISTORY_FILE, Delivery, History, WarehouseBusyError
from streaming.ledger import LEDGER_FILE, Ledger
from streaming.locks import FolderInUseError, is_being_written, lock_folder
from streaming.models import Models, compile_models
from streaming.online import Online
from streaming.sinks import Sink, SinkError
from streaming.sources import Record, Source

DEAD_LETTERS_FILE = "dead_letters.jsonl"
"""Names in the folder of a stream."""
EVENTS_AT_ONCE = 500
THREADS = 1
"""Of DuckDB. A customer's rows are few, and two threads waiting for each other took half as long again as
one.
"""
MOST_AHEAD = TTL
"""A row known so much later than all before it does not move the clock: it would take one wrong `loaded_at`
in the far future to make every customer's windows empty. It is in the feed and counts when its time has
come. Longer than this no online row lasts, so a feed that was really silent for so long starts from a night
anyway.
"""

log = logging.getLogger(__name__)


class Stream:
    """Everything that the stream has in memory, made from the warehouse and the raw feed at the start.

    ``folder`` holds what it remembers itself; two streams cannot share one.
    """

    def __init__(
        self,
        folder: Path,
        sinks: Sequence[Sink] = (),
        *,
        models: Models | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        try:
            self._lock = lock_folder(folder)
        except FolderInUseError as error:
            raise StreamError(f"{error}; two cannot share it.") from None
        self.sinks = sinks
        self.ledger = Ledger(folder / LEDGER_FILE)
        self._models = models or compile_models(folder / "dbt", variables)
        self._connection = duckdb.connect()
        self._connection.execute("set preserve_insertion_order = false")
        self._connection.execute(f"set threads = {THREADS}")
        self._history = History(self._connection, folder / HISTORY_FILE, self._models)
        self._features = CustomerFeatures(self._connection, self._history, self._models)
        self._feed = RawFeed(raw_data_dir(), lambda: is_being_written(warehouse_path()))
        self._online = Online()
        self._clock = datetime.min
        self._warehouse_state: tuple[int, int, int] | None = None
        try:
            self._start_from_night()
        except WarehouseBusyError as error:
            raise StreamError(f"{error}; start again when the build has ended.") from None

    def close(self) -> None:
        """Let go of all files."""
        self._connection.close()
        self.ledger.close()
        self._lock.close()

    @property
    def snapshot(self) -> date:
        """The midnight that rows published now look back from: the first that sees all that was delivered."""
        return self._clock.date() + timedelta(days=1)

    # === Between batches ====================================================================================

    def run(self, source: Source, wait_seconds: float = 1.0) -> int:
        """Deal with what comes until the source is finished; returns the number of records."""
        count = 0
        while not source.is_finished:
            self.follow_nights()
            records = source.read(EVENTS_AT_ONCE, wait_seconds)
            self.process(records)
            source.commit(records)
            count += len(records)
            self.send_alerts()
        return count

    def follow_nights(self) -> None:
        """Start afresh from the warehouse when a night has changed it."""
        if _state_of(warehouse_path()) != self._warehouse_state:
            try:
                self._start_from_night()
            except WarehouseBusyError:
                log.info("the warehouse is being written; going on from the night before")

    def _start_from_night(self) -> None:
        state = _state_of(warehouse_path())
        night = self._history.rebuild(warehouse_path())
        self._warehouse_state = state
        self._features.prepare()
        self._clock = max(self._clock, night)
        self._observe_night(night)
        delivery = self._history.read_unread_files(self._feed.directory)
        self._move_clock(delivery)
        self._publish(delivery)

    def _observe_night(self, night: datetime) -> None:
        """What changes overnight is told too: who falls silent sends no event that would tell."""
        if self.ledger.observed(night.date()):
            return
        rows = self._connection.execute(
            f"with scored as (select predictions.* from {HISTORY}.customer_predictions as predictions "
            "inner join predictions.model_versions using (model_version) where is_champion) "
            f"from {HISTORY}.customer_features left join scored using (customer_id, feature_timestamp)"
        ).df()
        known_at = dict.fromkeys(rows["customer_id"], night)
        self.ledger.observe(
            rows.to_dict("records"), known_at, [sink.name for sink in self.sinks], night=night.date()
        )
        self.send_alerts()

    # === A batch ============================================================================================

    def process(self, records: Sequence[Record]) -> None:
        """Deal with records; when this returns they are in the feed and online, their alerts written down."""
        events = []
        for record in records:
            try:
                events.append(parse_event(record.text))
            except EventError as error:
                log.error("%s: %s", record.place, error)
                self._keep_dead_letter(record, str(error))
        fresh = self._history.unknown(self._of_the_remembered(events))
        if not fresh:
            return
        delivery = self._history.add(fresh)
        self._move_clock(delivery)
        self._feed.append(fresh, self.snapshot - timedelta(days=1))
        self._publish(delivery, fresh)

    def _of_the_remembered(self, events: Sequence[Event]) -> list[Event]:
        """Without the events of forgotten customers, which are kept nowhere, not in the raw feed either."""
        kept = [event for event in events if not self._history.is_forgotten(event.values.get(CUSTOMER))]
        if len(kept) < len(events):
            log.warning("%d events of forgotten customers are left out", len(events) - len(kept))
        return kept

    def _move_clock(self, delivery: Delivery) -> None:
        for moment in delivery.moments:
            if moment > self._clock + MOST_AHEAD:
                log.warning(
                    "a row known by %s lies too far ahead of the others (%s); it counts when its day comes",
                    moment,
                    self._clock,
                )
                return
            self._clock = max(self._clock, moment)

    def _publish(self, delivery: Delivery, events: Sequence[Event] = ()) -> None:
        """Compute, publish, compare with the thresholds; also for others whose tutor's rating changed."""
        # Who will be affected by a rating is known before it is computed, as a rule: one computation of all
        # takes little more than that of one customer.
        affected = {*delivery.customers, *self._features.with_primary_tutor(delivery.rated_tutors)}
        customers = sorted(affected) if len(affected) <= AT_ONCE else delivery.customers
        tutors: set[str] = set()
        for rows, changed in self._features.compute(customers, self.snapshot, delivery.moves_ratings):
            self._publish_rows(rows)
            self._report_rejections(events)
            tutors |= changed
        others = set(self._features.with_primary_tutor(tutors)) if tutors else set()
        # Of more than that, a part may have been computed before the ratings of a later part were in.
        if len(customers) <= AT_ONCE:
            others -= set(customers)
        for rows, _ in self._features.compute(sorted(others), self.snapshot, moves_ratings=False):
            self._publish_rows(rows)

    def _publish_rows(self, rows: pd.DataFrame) -> None:
        if rows.empty:
            return
        known_at = self.ledger.reserve(list(rows["customer_id"]), self.snapshot, self._clock)
        try:
            self._online.publish(rows, known_at)
        except StoreError as error:
            raise StreamError(str(error)) from None
        self.ledger.observe(rows.to_dict("records"), known_at, [sink.name for sink in self.sinks])

    def _report_rejections(self, events: Sequence[Event]) -> None:
        for rejection in self._features.rejections(events):
            log.warning(
                "%s %s breaks the contract (%s); it is in the feed, and the nightly build sets it aside",
                rejection.table,
                rejection.key,
                rejection.reason,
            )

    def _keep_dead_letter(self, record: Record, error: str) -> None:
        letter = {"place": record.place, "error": error, "text": record.text.decode(errors="replace")}
        with (self._folder / DEAD_LETTERS_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(letter) + "\n")
            sync(stream)

    # === Alerts =============================================================================================

    def send_alerts(self) -> None:
        """Send what is unsent, oldest first; a sink that does not take one is asked again next time."""
        for sink in self.sinks:
            for alert_id, message in self.ledger.unsent(sink.name):
                try:
                    sink.send(alert_id, message)
                except SinkError as error:
                    log.error(
                        "alert %s is not delivered to %s and will be sent again: %s",
                        alert_id,
                        sink.name,
                        error,
                    )
                    break
                self.ledger.sent(sink.name, alert_id)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size
