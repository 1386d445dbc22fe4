"""Features and predictions of a few customers, by the nightly build's statements on their rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
import pandas as pd

from feature_repo.catalog import load_catalog
from scoring.functions import register
from streaming.contract import CUSTOMER, Event, load_contract
from streaming.history import HISTORY, History
from streaming.models import FEATURES, PREDICTIONS, SNAPSHOTS, Model, Models

RATINGS = "int_session_ratings"
SESSIONS = "(select session_id from staging.base_sessions where session_id is not null)"
AT_ONCE = 500
"""Customers that are computed together at most; bounds memory after a stop in the middle of a day."""


@dataclass(frozen=True)
class Rejection:
    """A row that the nightly build will set aside, and why."""

    table: str
    key: str
    reason: str


class CustomerFeatures:
    """The models of the nightly build in a database in memory, where only the customers asked for exist."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, history: History, models: Models) -> None:
        self.connection = connection
        self.history = history
        self.models = models
        self._statements: tuple[duckdb.Statement, ...] = ()

    def prepare(self) -> None:
        """Make the views and read reference tables and champion anew; after each rebuild of the history."""
        run = self.connection.execute
        register(self.connection)
        for schema in sorted(self.models.schemas):
            run(f"create schema if not exists {schema}")
        for seed in self.models.seeds:
            run(f"create or replace table {seed} as from {HISTORY}.{seed.split('.')[1]}")
        # The number that each record of a run carries; here there is one run.
        run("create or replace table raw.this_run as select 1 as run_number")
        for table in load_contract().values():
            run(f"create or replace table raw.{table.name} as from {HISTORY}.{table.name} limit 0")
        self._take_snapshot_of(date(2000, 1, 1))
        for model in self.models.models:
            run(model.statement(self._select(model)))
        # Parsing is a seventh of what an event costs, so it is done once.
        self._statements = tuple(
            statement
            for model in self.models.models
            if not model.is_static and (not model.is_view or model.name == RATINGS)
            for statement in self.connection.extract_statements(model.statement(self._select(model)))
        )
        # The first prediction of a process compiles the models; better before the first event than after it.
        run(
            "select predict_customer_health(rows), explain_churn_risk_30d(rows) "
            f"from (from {HISTORY}.{FEATURES} limit 1) as rows where exists (select 1 from "
            "predictions.model_versions "
            "where is_champion)"
        ).fetchall()

    def compute(
        self, customers: Sequence[str], snapshot: date, moves_ratings: bool
    ) -> Iterator[tuple[pd.DataFrame, set[str]]]:
        """The snapshot of the customers as far as they are in scope of it, some at a time.

        Yields a frame with the columns of the features and, as far as a champion scores the snapshot, of
        its predictions (nulls otherwise), one row a customer; and the tutors with other ratings than the
        history had, which is looked for when ``moves_ratings`` says that there may be some.
        """
        for start in range(0, len(customers), AT_ONCE):
            yield self._compute(list(customers[start : start + AT_ONCE]), snapshot, moves_ratings)

    def rejections(self, events: Sequence[Event]) -> list[Rejection]:
        """Which of the events of customers computed last break the contract."""
        found = []
        for table in load_contract().values():
            keys = {event.values[table.key[0]] for event in events if event.table == table.name} - {None}
            if table.of_customer and keys:
                loads = {
                    (event.values[table.key[0]], event.values["loaded_at"])
                    for event in events
                    if event.table == table.name
                }
                rows = self.connection.execute(
                    f"select distinct {table.key[0]}, loaded_at, rejection_reason from "
                    f"staging.base_{table.feed} "
                    f"where rejection_reason is not null and {table.key[0]} in ({_listed(keys)})"
                ).fetchall()
                found += [
                    Rejection(table.name, key, reason)
                    for key, loaded_at, reason in rows
                    if (key, loaded_at) in loads
                ]
        return found

    # === The small warehouse ================================================================================

    def _compute(
        self, customers: list[str], snapshot: date, moves_ratings: bool
    ) -> tuple[pd.DataFrame, set[str]]:
        run = self.connection.execute
        self._take_rows_of(customers)
        self._take_snapshot_of(snapshot)
        for statement in self._statements:
            run(statement)
        tutors = self._keep_ratings() if moves_ratings else set()
        self._keep_primary_tutors(customers, snapshot)
        keys = f"{CUSTOMER}, {load_catalog().timestamp}"
        frame = run(
            f"select * from features.{FEATURES} left join predictions.{PREDICTIONS} using ({keys}) "
            f"where {CUSTOMER} in ({_listed(customers)}) order by {CUSTOMER}"
        ).df()
        return frame, tutors

    def _select(self, model: Model) -> str | None:
        """Another SELECT than the model's own, where rows of other customers belong to the features: None
        elsewhere.
        """
        if model.name != RATINGS:
            return None
        # A tutor's rating is made of all customers' ratings. Those of customers who are not here come as
        # the same model judged them, in the night or when their rows came.
        return (
            f"from ({model.sql}) union all from {HISTORY}.ratings where tutor_id in (select tutor_id from "
            f"staging.base_sessions) and session_id not in {SESSIONS}"
        )

    def _take_snapshot_of(self, snapshot: date) -> None:
        self.connection.execute(
            f"create or replace table intermediate.{SNAPSHOTS} as select date '{snapshot}' as snapshot_date"
        )

    def _take_rows_of(self, customers: list[str]) -> None:
        """The customers' raw rows; and whole rows that were theirs once, with the customers whose they are
        now.
        """
        run = self.connection.execute
        moved: dict[str, set[str]] = {}
        owners = set(customers)
        for table, key, owner in run(
            f"select source_table, row_key, {CUSTOMER} from {HISTORY}.moved_keys where (source_table, "
            "row_key) in "
            f"(select (source_table, row_key) from {HISTORY}.moved_keys where {CUSTOMER} in "
            f"({_listed(customers)}))"
        ).fetchall():
            moved.setdefault(table, set()).add(key)
            owners.add(owner)
        for table in load_contract().values():
            if not table.of_customer:
                continue
            wanted = owners if table.key == (CUSTOMER,) else customers
            condition = f"{CUSTOMER} in ({_listed(wanted)})"
            if table.name in moved:
                condition += f" or {table.key[0]} in ({_listed(moved[table.name])})"
            run(f"create or replace table raw.{table.name} as from {HISTORY}.{table.name} where {condition}")

    def _keep_ratings(self) -> set[str]:
        """Bring the history's ratings of the sessions that are here up to date; returns the tutors for whom
        they change.
        """
        run = self.connection.execute
        run(
            f"create or replace temp table ratings_now as from intermediate.{RATINGS} "
            f"where session_id in {SESSIONS}"
        )
        run(
            f"create or replace temp table ratings_before as from {HISTORY}.ratings where session_id "
            f"in {SESSIONS}"
        )
        tutors = {
            row[0]
            for row in run(
                "select tutor_id from (from ratings_now except from ratings_before) "
                "union select tutor_id from (from ratings_before except from ratings_now)"
            ).fetchall()
        }
        if tutors:
            run(f"delete from {HISTORY}.ratings where session_id in {SESSIONS}")
            run(f"insert into {HISTORY}.ratings from ratings_now")
        return tutors - {None}

    def _keep_primary_tutors(self, customers: list[str], snapshot: date) -> None:
        run = self.connection.execute
        run(f"delete from {HISTORY}.primary_tutors where {CUSTOMER} in ({_listed(customers)})")
        run(
            f"insert into {HISTORY}.primary_tutors select {CUSTOMER}, primary_tutor_id "
            "from intermediate.int_customer_session_order inner join staging.base_customer_arrivals "
            f"using (customer_key) where {CUSTOMER} in ({_listed(customers)}) "
            "and primary_tutor_id is not null"
        )

    def with_primary_tutor(self, tutors: Iterable[str]) -> list[str]:
        """The customers whose primary tutor is one of these."""
        rows = self.connection.execute(
            f"select {CUSTOMER} from {HISTORY}.primary_tutors where primary_tutor_id in ({_listed(tutors)})"
        ).fetchall()
        return sorted(customer for (customer,) in rows)


def _listed(values: Iterable[str]) -> str:
    """SQL text literals, which DuckDB compares with the bounds of a block before it reads it."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in sorted(values)) or "null"
