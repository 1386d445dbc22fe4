"""What was delivered so far: the raw rows behind the warehouse, and those that no night has read yet.

A DuckDB file of the stream's own, laid out for look-ups by customer, so that the warehouse is opened only
while it is copied (some seconds after a night) and never stands in a night's way. It can always be made
again from the warehouse and the raw feed, and is, at every start.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from feature_repo.raw_files import raw_files
from streaming.contract import CUSTOMER, Event, RawTable, load_contract
from streaming.errors import StreamError
from streaming.models import Models

log = logging.getLogger(__name__)

HISTORY_FILE = "history.duckdb"
"""Its name in the stream's folder."""
HISTORY = "history"
WAREHOUSE = "warehouse_read"


class WarehouseBusyError(Exception):
    """Some process, such as a nightly build, has the warehouse open to write."""


@dataclass(frozen=True)
class Delivery:
    """What a batch of events brought that was not delivered before."""

    rows: int
    moments: tuple[datetime, ...]
    """The last moment of each day by which any of its rows was known, in order."""
    customers: tuple[str, ...]
    """Those whose rows it brought, and those whose rows it took over."""
    moves_ratings: bool
    """Whether ratings may have changed, or whose they are."""
    rated_tutors: tuple[str, ...] = ()
    """Those of its sessions that have a rating, or had one."""


NOTHING = Delivery(0, (), (), False)


class History:
    """The raw rows of all customers, in the database ``history`` of a connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, file: Path, models: Models) -> None:
        self.connection = connection
        self.file = file
        self.models = models
        self._attached = False
        self._forgotten: frozenset[tuple[str, str]] = frozenset()

    # === Making it ==========================================================================================

    def rebuild(self, warehouse: Path) -> datetime:
        """Copy what the last night knew; returns its snapshot.

        Raises ``WarehouseBusyError``, with the history as it was, while another process writes the
        warehouse, and ``StreamError`` when there is no warehouse or it has no snapshot.
        """
        if not warehouse.exists():
            raise StreamError(f"There is no warehouse at {warehouse}; build it with 'dbt build' first.")
        run = self.connection.execute
        try:
            run(f"attach '{warehouse}' as {WAREHOUSE} (read_only)")
        except duckdb.IOException as error:
            raise WarehouseBusyError(f"{warehouse} is in use: {error}") from None
        try:
            if self._attached:
                run(f"detach {HISTORY}")
                self._attached = False
            self.file.parent.mkdir(parents=True, exist_ok=True)
            for path in (self.file, self.file.with_name(f"{self.file.name}.wal")):
                path.unlink(missing_ok=True)
            run(f"attach '{self.file}' as {HISTORY}")
            self._attached = True
            return self._copy()
        except duckdb.CatalogException as error:
            raise StreamError(
                f"{warehouse} is no finished warehouse ({str(error).splitlines()[0]}); run 'dbt build' first."
            ) from None
        finally:
            run(f"detach {WAREHOUSE}")

    def _copy(self) -> datetime:
        run = self.connection.execute
        for table in load_contract().values():
            # In the order of the customers, so that a look-up reads a few blocks of each column.
            run(
                f"create table {HISTORY}.{table.name} as select {', '.join(table.names)} "
                f"from {WAREHOUSE}.staging.base_{table.feed} where replaced_in is null "
                f"order by {CUSTOMER if table.of_customer else ', '.join(table.key)}"
            )
        run(f"create table {HISTORY}.moved_keys (source_table varchar, row_key varchar, {CUSTOMER} varchar)")
        for table in _customers_tables():
            self._note_moved_keys(table, f"{HISTORY}.{table.name}")
        run(
            # As records of the one run that the stream's small warehouse has.
            f"create table {HISTORY}.ratings as select * replace (1 as recorded_in) "
            f"from {WAREHOUSE}.intermediate.int_session_ratings where replaced_in is null order by tutor_id"
        )
        run(
            f"create table {HISTORY}.primary_tutors as select {CUSTOMER}, primary_tutor_id "
            f"from {WAREHOUSE}.intermediate.int_customer_session_order "
            f"inner join {WAREHOUSE}.staging.base_customer_arrivals using (customer_key) "
            "where snapshot_date = (select max(snapshot_date) from "
            f"{WAREHOUSE}.intermediate.int_customer_session_order) "
            "and primary_tutor_id is not null"
        )
        for seed in self.models.seeds:
            run(f"create table {HISTORY}.{seed.split('.')[1]} as from {WAREHOUSE}.{seed}")
        for relation in ("features.customer_features", "predictions.customer_predictions"):
            run(
                f"create table {HISTORY}.{relation.split('.')[1]} as from {WAREHOUSE}.{relation} "
                "where feature_timestamp "
                f"= (select max(feature_timestamp) from {WAREHOUSE}.features.customer_features)"
            )
        run(
            f"create table {HISTORY}.files_read as select source_table, parse_filename(file) as file, "
            "size, modified_at "
            f"from {WAREHOUSE}.raw.files_read"
        )
        self._forgotten = self._forgotten_in_warehouse()
        snapshot = run(f"select max(feature_timestamp) from {HISTORY}.customer_features").fetchone()[0]
        if snapshot is None:
            raise StreamError("The warehouse has no snapshot yet; run 'dbt build' first.")
        return snapshot

    def _forgotten_in_warehouse(self) -> frozenset[tuple[str, str]]:
        """Salt and hash of each forgotten customer (``scoring.forget``)."""
        run = self.connection.execute
        if not run(
            "select 1 from duckdb_tables() where (database_name, schema_name, table_name) = "
            f"('{WAREHOUSE}', 'raw', 'forgotten_customers')"
        ).fetchall():
            return frozenset()
        return frozenset(
            run(f"select distinct salt, customer_hash from {WAREHOUSE}.raw.forgotten_customers").fetchall()
        )

    def is_forgotten(self, customer: str | None) -> bool:
        """Whether a customer was forgotten before the last night or change of the warehouse that was read."""
        return customer is not None and any(
            (salt, hashlib.sha256((salt + customer).encode()).hexdigest()) in self._forgotten
            for salt in {salt for salt, _ in self._forgotten}
        )

    def read_unread_files(self, directory: Path) -> Delivery:
        """Add the rows of the raw files that no night has read yet; returns what was not there already."""
        deliveries = []
        unread = self._unread_files(directory)
        for table in load_contract().values():
            for extension in ("parquet", "csv"):
                files = [path for path in unread if path.match(f"{table.name}/*.{extension}")]
                if files:
                    try:
                        self._hold_file_rows(table, extension, [str(path) for path in files])
                    except duckdb.Error as error:
                        log.warning(
                            "%s: unread files leave the stream alone until the nightly build has "
                            "judged them: %s",
                            table.name,
                            str(error).splitlines()[0],
                        )
                        continue
                    self._drop_forgotten(table)
                    deliveries.append(self._add_held(table, f"from {HISTORY}.{table.name}"))
        return _together(deliveries)

    def _unread_files(self, directory: Path) -> list[Path]:
        """The raw files that are not among those that nights have read, by table, name, size and time."""
        read = set(
            self.connection.execute(
                f"select source_table, file, size, epoch(modified_at)::bigint from {HISTORY}.files_read"
            ).fetchall()
        )
        found = raw_files(str(directory))
        listed = zip(map(Path, found["file"]), found["size"], found["modified_at"], strict=True)
        return sorted(
            path
            for path, size, modified_at in listed
            if (path.parent.name, path.name, size, modified_at) not in read
        )

    def _hold_file_rows(self, table: RawTable, extension: str, files: list[str]) -> None:
        reader = (
            "read_parquet($files, union_by_name = true)"
            if extension == "parquet"
            else "read_csv($files, header = true, all_varchar = true, union_by_name = true)"
        )
        described = self.connection.execute(f"describe from {reader}", {"files": files}).fetchall()
        found = {row[0].lower() for row in described}
        columns = [
            f"cast({column.name if column.name in found or not column.is_optional else 'null'} as "
            f"{column.data_type}) "
            f"as {column.name}"
            for column in table.columns
        ]
        self.connection.execute(
            f"create or replace temp table held as select {', '.join(columns)} from {reader}",
            {"files": files},
        )

    def _drop_forgotten(self, table: RawTable) -> None:
        """Take the rows of forgotten customers out of the table ``held``."""
        if not table.of_customer or not self._forgotten:
            return
        customers = self.connection.execute(f"select distinct {CUSTOMER} from held").fetchall()
        forgotten = [customer for (customer,) in customers if self.is_forgotten(customer)]
        self.connection.execute(f"delete from held where list_contains(?, {CUSTOMER})", [forgotten])

    # === Adding to it =======================================================================================

    def add(self, events: Sequence[Event]) -> Delivery:
        """Add delivered rows; those that are there already, to the last column, are left out."""
        by_table: dict[str, list[Event]] = {}
        for event in events:
            by_table.setdefault(event.table, []).append(event)
        return _together(
            self._add_events(load_contract()[name], of_table) for name, of_table in by_table.items()
        )

    def unknown(self, events: Sequence[Event]) -> list[Event]:
        """The events that were not delivered before, each once, in their order."""
        delivered: dict[str, set[tuple]] = {}
        for name in {event.table for event in events}:
            table = load_contract()[name]
            known = self._versions(table, [event for event in events if event.table == name])
            delivered[name] = {_identity(row) for row in self.connection.execute(known).fetchall()}
        fresh = []
        for event in events:
            identity = _identity(event.values.values())
            if identity not in delivered[event.table]:
                delivered[event.table].add(identity)
                fresh.append(event)
        return fresh

    def _versions(self, table: RawTable, events: Sequence[Event]) -> str:
        """A query for all rows with one of the keys of the events; keys in it are literals, which spare a
        scan.
        """
        key = table.key[0]
        values = {event.values[key] for event in events}
        listed = ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(values - {None}))
        conditions = ([f"{key} in ({listed})"] if listed else []) + (
            [f"{key} is null"] if None in values else []
        )
        return f"from {HISTORY}.{table.name} where {' or '.join(conditions)}"

    def _add_events(self, table: RawTable, events: Sequence[Event]) -> Delivery:
        incoming = pa.Table.from_pylist([event.values for event in events], schema=table.schema)
        self.connection.register("incoming", incoming)
        self.connection.execute("create or replace temp table held as from incoming")
        self.connection.unregister("incoming")
        return self._add_held(table, self._versions(table, events))

    def _add_held(self, table: RawTable, known: str) -> Delivery:
        """Add the rows of the table ``held``; ``known`` is a query for all that may equal one of them."""
        run = self.connection.execute
        run(f"create or replace temp table fresh as from held except ({known})")
        rows = run("select count(*) from fresh").fetchone()[0]
        if not rows:
            return NOTHING
        customers: set[str] = set()
        if table.of_customer:
            customers |= {row[0] for row in run(f"select distinct {CUSTOMER} from fresh").fetchall()}
            customers |= {
                row[0]
                for row in run(
                    f"select distinct {CUSTOMER} from ({known}) where {table.key[0]} in (select "
                    f"{table.key[0]} from fresh)"
                ).fetchall()
            }
        run(f"insert into {HISTORY}.{table.name} from fresh")
        rated: list[tuple[str]] = []
        if table in _customers_tables():
            run(
                f"create or replace temp table versions as from ({known}) "
                f"where {table.key[0]} in (select {table.key[0]} from fresh)"
            )
            run(
                f"delete from {HISTORY}.moved_keys where source_table = '{table.name}' "
                f"and row_key in (select {table.key[0]} from fresh)"
            )
            self._note_moved_keys(table, "versions")
            if table.name == "raw_sessions":
                rated = run(
                    "select distinct tutor_id from versions where rating is not null and tutor_id is not null"
                ).fetchall()
        return Delivery(
            rows=rows,
            moments=self._moments(table),
            customers=tuple(sorted(customers - {None})),
            moves_ratings=table.name in ("raw_sessions", "raw_customers"),
            rated_tutors=tuple(sorted(tutor for (tutor,) in rated)),
        )

    def _moments(self, table: RawTable) -> tuple[datetime, ...]:
        """When the rows of the table ``fresh`` were known: by their load less the grace, or by what
        happened in them.
        """
        times = [column.name for column in table.columns if column.is_event_time]
        happened = f"greatest({', '.join(times)})" if times else "cast(null as timestamp)"
        known_at = f"coalesce(loaded_at - interval {self.models.grace_hours} hour, {happened})"
        moments = self.connection.execute(
            f"select max(known_at) from (select {known_at} as known_at from fresh) "
            "where known_at is not null group by cast(known_at as date) order by 1"
        ).fetchall()
        return tuple(moment for (moment,) in moments)

    def _note_moved_keys(self, table: RawTable, relation: str) -> None:
        # A row that changed hands: what its first owner sees hangs on versions that are another customer's.
        key = table.key[0]
        self.connection.execute(
            f"insert into {HISTORY}.moved_keys select distinct '{table.name}', {key}, {CUSTOMER} from "
            f"{relation} "
            f"where {CUSTOMER} is not null and {key} in (select {key} from {relation} group by {key} "
            f"having count(distinct {CUSTOMER}) > 1)"
        )


def _customers_tables() -> Iterable[RawTable]:
    """The tables whose rows belong to a customer and could come to belong to another."""
    return [table for table in load_contract().values() if table.of_customer and table.key != (CUSTOMER,)]


def _identity(values: Iterable) -> tuple:
    # NaN equals itself here, as it does in the warehouse.
    return tuple("nan" if value != value else value for value in values)


def _together(deliveries: Iterable[Delivery]) -> Delivery:
    deliveries = list(deliveries)
    return Delivery(
        rows=sum(delivery.rows for delivery in deliveries),
        moments=tuple(sorted({moment for delivery in deliveries for moment in delivery.moments})),
        customers=tuple(sorted({customer for delivery in deliveries for customer in delivery.customers})),
        moves_ratings=any(delivery.moves_ratings for delivery in deliveries),
        rated_tutors=tuple(sorted({tutor for delivery in deliveries for tutor in delivery.rated_tutors})),
    )
