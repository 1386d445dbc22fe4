"""Entity rows with mature labels from the warehouse, and their features from Feast.

The left side alone says who and when: snapshots of Mondays, a customer each, with the label of one model.
Features are then looked up as of those moments by `get_historical_features` with the model's feature service.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from training.errors import TrainingError
from training.models import NOT_YET_LAPSED, ModelSpec
from training.periods import CustomerPeriods, blocks_found
from training.split import CHOOSE, FIT, NOWHERE, REPORT, Blocks, assign, customer_hashes, split_time, thin

log = logging.getLogger(__name__)

# (entity rows with customer_id and event_timestamp, feature service) → the features of the service, row i for
# entity row i.
Retrieve = Callable[[pa.Table, str], pa.Table]

# More hardly helps, because neighbouring weeks of a customer are nearly copies of each other: at 10,000
# customers the log loss of churn within 30 days was 0.378 with 30,000 fit rows and 0.377 with twice as many.
MOST_FIT_ROWS = 100_000

_MONDAY = 1  # DuckDB's isodow
LAPSE_DAYS = 30  # labels-and-health.md: so long without a session is a lapse


@dataclass(frozen=True)
class LabelledSnapshots:
    """Every Monday snapshot up to the data end (and the data end's own, where that was asked for) with what
    is known of it, sorted by snapshot and customer.

    `values` holds labels (NaN: not mature or not applicable) and the few columns that decide about
    populations and baselines, all float64 (rows,). `hashes` is one customer hash a row.
    """

    customer_ids: np.ndarray
    snapshots: np.ndarray
    hashes: np.ndarray
    values: Mapping[str, np.ndarray]
    data_end: np.datetime64

    def __len__(self) -> int:
        return len(self.customer_ids)


@dataclass(frozen=True)
class Examples:
    """Rows of one model: label and features, and the block (split.FIT, CHOOSE, REPORT) of each.

    `features` is float64 (rows, len(columns)); `extra` holds further columns, float64 (rows,).
    """

    customer_ids: np.ndarray
    snapshots: np.ndarray
    block: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    columns: tuple[str, ...]
    extra: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Examples":
        """The rows of a boolean mask or index."""
        return Examples(
            customer_ids=self.customer_ids[rows],
            snapshots=self.snapshots[rows],
            block=self.block[rows],
            labels=self.labels[rows],
            features=self.features[rows],
            columns=self.columns,
            extra={name: values[rows] for name, values in self.extra.items()},
        )

    def of(self, block: int) -> "Examples":
        """The rows of one block."""
        return self.take(self.block == block)

    def column(self, name: str) -> np.ndarray:
        """A feature or an extra column, float64 (rows,)."""
        if name in self.extra:
            return self.extra[name]
        return self.features[:, self.columns.index(name)]

    def knows(self, name: str) -> bool:
        """Whether `column(name)` would find it."""
        return name in self.extra or name in self.columns

    @property
    def not_yet_lapsed(self) -> np.ndarray:
        """Which rows' customers completed a session within the 30 days before the snapshot, bool (rows,)."""
        return self.column("days_since_last_session") < LAPSE_DAYS


@dataclass(frozen=True)
class Plan:
    """Which rows a model uses: `rows` indexes LabelledSnapshots, `block` has the block of each."""

    spec: ModelSpec
    blocks: Blocks
    rows: np.ndarray
    block: np.ndarray


def data_end_of(warehouse: duckdb.DuckDBPyConnection) -> datetime:
    """The as-of time of the warehouse: its latest snapshot. Raises TrainingError when there is none."""
    found = query_warehouse(warehouse, "select max(feature_timestamp) from features.customer_features")
    latest = found.fetchall()[0][0]
    if latest is None:
        raise TrainingError("The warehouse holds no snapshots: run `make run` or `dbt build` on data first.")
    return latest


def read_labelled_snapshots(
    warehouse: duckdb.DuckDBPyConnection,
    specs: Sequence[ModelSpec],
    as_of: datetime,
    with_newest: bool = False,
) -> LabelledSnapshots:
    """Every Monday snapshot before `as_of` with labels that were mature by then; `with_newest` adds the
    snapshot of `as_of` itself, which has no label yet.

    A label that matured after `as_of` is left out (NaN) even where the warehouse holds it by now. Raises
    TrainingError when the warehouse lacks a table or column.
    """
    labels = ", ".join(f"labels.{spec.label}::double as {spec.label}" for spec in specs)
    table = query_warehouse(
        warehouse,
        f"""
            select
                labels.customer_id
              , labels.feature_timestamp
              , {labels}
              , labels.health_index::double as health_index
              , features.days_since_last_session::double as days_since_last_session
              , features.total_sessions_lifetime::double as total_sessions_lifetime
            from labels.customer_labels as labels
            join features.customer_features as features using (customer_id, feature_timestamp)
            where (isodow(labels.feature_timestamp) = {_MONDAY} and labels.feature_timestamp < $1)
              or (labels.feature_timestamp = $1 and $2)
            order by labels.feature_timestamp, labels.customer_id
            """,
        [as_of, with_newest],
    ).to_arrow_table()
    snapshots = table["feature_timestamp"].to_numpy().astype("datetime64[us]")
    data_end = np.datetime64(as_of, "us")
    values = {name: table[name].to_numpy().astype(np.float64) for name in table.column_names[2:]}
    for spec in specs:
        mature = snapshots + np.timedelta64(spec.label_days, "D") <= data_end
        values[spec.label] = np.where(mature, values[spec.label], np.nan)
    customers = table["customer_id"].combine_chunks().dictionary_encode()
    hashes = customer_hashes(customers.dictionary.to_pylist())
    return LabelledSnapshots(
        customer_ids=table["customer_id"].to_numpy(),
        snapshots=snapshots,
        hashes=hashes[customers.indices.to_numpy()] if len(hashes) else hashes,
        values=values,
        data_end=data_end,
    )


def plan(labelled: LabelledSnapshots, spec: ModelSpec, periods: CustomerPeriods | None = None) -> Plan:
    """The rows of one model and their blocks, by time and by customer; as `periods` say where they are given.

    Raises TrainingError, saying what is needed, when history is too short or a block has too few rows.
    """
    if not len(labelled):
        raise TrainingError(
            "The warehouse holds no labelled snapshots: run `make run` or `dbt build` on data first."
        )
    usable = ~np.isnan(labelled.values[spec.label])
    if spec.only_before_first_session:
        usable &= labelled.values["total_sessions_lifetime"] == 0
    if periods is None:
        blocks = _blocks_of_time(labelled, spec)
        split = assign(labelled.hashes, labelled.snapshots, blocks)
    else:
        split = periods.assign(labelled.hashes, labelled.snapshots, spec.label_days)
    assigned = np.where(usable, split, NOWHERE)
    assigned = thin(assigned, labelled.hashes, labelled.snapshots, MOST_FIT_ROWS)
    not_yet_lapsed = labelled.values["days_since_last_session"] < LAPSE_DAYS
    check_enough(spec, labelled.values[spec.label], not_yet_lapsed, assigned)
    if periods is not None:
        blocks = blocks_found(assigned, labelled.snapshots, spec.label_days)
    rows = np.flatnonzero(assigned != NOWHERE)
    return Plan(spec=spec, blocks=blocks, rows=rows, block=assigned[rows])


def _blocks_of_time(labelled: LabelledSnapshots, spec: ModelSpec) -> Blocks:
    try:
        return split_time(
            labelled.snapshots.min().astype("datetime64[D]"),
            labelled.data_end.astype("datetime64[D]"),
            spec.label_days,
            spec.choose_weeks,
            spec.report_weeks,
        )
    except TrainingError as error:
        raise TrainingError(f"{spec.name} cannot be trained: {error}.") from error


# With fewer rows than this, or fewer of either outcome, there is nothing to learn or to say.
_LEAST_ROWS = {FIT: 20, CHOOSE: 5, REPORT: 5}
_LEAST_OF_EACH_OUTCOME = {FIT: 5, CHOOSE: 1, REPORT: 1}
# With fewer than this, figures and calibration are rough.
_ROUGH_ROWS = 200
_PURPOSE = {FIT: "fit on", CHOOSE: "choose with", REPORT: "report on"}


def check_enough(
    spec: ModelSpec, labels: np.ndarray, not_yet_lapsed: np.ndarray, assigned: np.ndarray
) -> None:
    """Raise TrainingError when a block of `assigned` has too few rows of the model's primary population.

    All (rows,): float64, bool and the block of each. Says so in the log when there are few.
    """
    if np.isnan(labels).all():
        raise TrainingError(f"{spec.name} has nothing to learn from: {spec.label} is null at every snapshot.")
    counted = np.ones(len(labels), dtype=bool)
    if spec.primary_population == NOT_YET_LAPSED:
        counted = not_yet_lapsed
    for code, least in _LEAST_ROWS.items():
        chosen = labels[(assigned == code) & counted]
        what, lack = "mature snapshots", len(chosen) < least
        found = len(chosen)
        if spec.kind == "probability" and not lack:
            what, least = "mature snapshots of the rarer outcome", _LEAST_OF_EACH_OUTCOME[code]
            found = int(min(chosen.sum(), len(chosen) - chosen.sum()))
            lack = found < least
        if lack:
            raise TrainingError(
                f"{spec.name} has {found} {what} to {_PURPOSE[code]} and needs at least {least}: "
                "more customers or a longer history are needed."
            )
        if len(chosen) < _ROUGH_ROWS:
            log.warning("%s has only %d snapshots to %s: rough", spec.name, len(chosen), _PURPOSE[code])


def retrieve_examples(
    labelled: LabelledSnapshots, plans: Sequence[Plan], retrieve: Retrieve
) -> dict[str, Examples]:
    """The examples of each plan, by model name; models of one feature service share one retrieval."""
    examples = {}
    for service in dict.fromkeys(plan.spec.feature_service for plan in plans):
        sharing = [plan for plan in plans if plan.spec.feature_service == service]
        rows = np.unique(np.concatenate([plan.rows for plan in sharing]))
        columns, features = retrieve_features(
            labelled.customer_ids[rows], labelled.snapshots[rows], service, retrieve
        )
        for each in sharing:
            picked = np.searchsorted(rows, each.rows)
            examples[each.spec.name] = Examples(
                customer_ids=labelled.customer_ids[each.rows],
                snapshots=labelled.snapshots[each.rows],
                block=each.block,
                labels=labelled.values[each.spec.label][each.rows],
                features=features[picked],
                columns=columns,
                extra={
                    name: labelled.values[name][each.rows]
                    for name in ("health_index", "days_since_last_session", "total_sessions_lifetime")
                },
            )
    return examples


def retrieve_features(
    customer_ids: np.ndarray, snapshots: np.ndarray, service: str, retrieve: Retrieve
) -> tuple[tuple[str, ...], np.ndarray]:
    """The names and values, float64 (rows, names), of a service's features at the entity rows.

    Raises TrainingError as retrieve_table does.
    """
    found = retrieve_table(customer_ids, snapshots, service, retrieve)
    columns = tuple(found.column_names)
    features = np.empty((found.num_rows, len(columns)))
    for index, name in enumerate(columns):
        features[:, index] = found[name].to_numpy()
    return columns, features


def retrieve_table(
    customer_ids: np.ndarray, snapshots: np.ndarray, service: str, retrieve: Retrieve
) -> pa.Table:
    """A service's features at the entity rows, in Arrow and in their own types, row i for row i.

    Raises TrainingError when the answer has more or fewer rows than were asked for, or a null: no feature is
    ever null.
    """
    entity_rows = pa.table(
        {
            "customer_id": pa.array(customer_ids, pa.string()),
            "event_timestamp": pa.array(snapshots.astype("datetime64[us]"), pa.timestamp("us")),
        }
    )
    found = retrieve(entity_rows, service)
    if found.num_rows != len(customer_ids):
        raise TrainingError(
            f"Feast returned {found.num_rows} rows of {service} for {len(customer_ids)} snapshots."
        )
    for name in found.column_names:
        if found[name].null_count:
            raise TrainingError(
                f"Feast has no {name} for {found[name].null_count} of {found.num_rows} snapshots: "
                "its Parquet files are older than the warehouse; run `dbt build` and `feast apply` again."
            )
    return found


def read_truth(
    raw_dir: Path, customer_ids: np.ndarray, snapshots: np.ndarray, names: Sequence[str]
) -> np.ndarray | None:
    """The simulator's true probabilities, float64 (rows, names), NaN where it has none; None for real data.

    `names` are columns of `<raw dir>/truth/*.parquet` without the leading `true_`.
    """
    files = str(Path(raw_dir) / "truth" / "*.parquet")
    if not list(Path(raw_dir).glob("truth/*.parquet")):
        return None
    rows = pa.table(
        {
            "row": np.arange(len(customer_ids)),
            "customer_id": pa.array(customer_ids, pa.string()),
            "week_start": pa.array(snapshots.astype("datetime64[us]"), pa.timestamp("us")),
        }
    )
    columns = ", ".join(f"truth.true_{name}::double as {name}" for name in names)
    with duckdb.connect() as connection:
        connection.register("asked", rows)
        found = connection.sql(
            f"""
            select {columns}
            from asked
            left join read_parquet($1) as truth
              on truth.customer_id = asked.customer_id and truth.week_start::timestamp = asked.week_start
            order by asked.row
            """,
            params=[files],
        ).to_arrow_table()
    return np.column_stack([found[name].to_numpy().astype(np.float64) for name in names])


def query_warehouse(
    warehouse: duckdb.DuckDBPyConnection, statement: str, parameters: Sequence[object] = ()
) -> duckdb.DuckDBPyRelation:
    """The relation of a statement. Raises TrainingError when the warehouse lacks a table or column."""
    try:
        return warehouse.sql(statement, params=list(parameters))
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"The warehouse is not built: run `make run` or `dbt build` first ({reason})."
        ) from error
