"""What is exported: one record a customer, at the snapshot about which most is known, in three splits.

Which. Every customer with a snapshot is represented by one of those at which as many labels as possible are
known: all of them for who has been here for two months, some or none for newcomers, whose record then holds
null for a label that is not mature. What is known depends on the day of a snapshot alone and never on what a
label says, so these nulls tell nothing of the outcome. Among these snapshots one is drawn by a hash of
customer and day. Plain drawing would give short-lived customers more weight than they have in the warehouse,
so the draw is weighted by segment: the records have the segment mix of all those snapshots.

Splits. By customer, along the groups of training/split.py: the lowest percentiles are test, the next
validation, the rest train. So the customers that every version of the models is judged on are never in train,
as long as test and validation take at least REPORT_PERCENT of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.catalog import ALL_FEATURES_SERVICE, FeatureCatalog
from training.dataset import (
    LabelledSnapshots,
    Retrieve,
    query_warehouse,
    read_labelled_snapshots,
    retrieve_table,
)
from training.errors import TrainingError
from training.models import SPECS, ModelSpec
from training.records import SEGMENT, SPLITS, Provenance, record_schema
from training.split import customer_hashes

# The training-data summary that is reproduced (reference-figures.md).
STANDARD_SIZES: Mapping[str, int] = {"train": 7_000, "validation": 1_500, "test": 1_500}

_LONGEST_LABEL_DAYS = max(spec.label_days for spec in SPECS)
_ROUNDS_OF_WEIGHTING = 200


@dataclass(frozen=True)
class Export:
    """What is exported: the records of each split, sorted by customer, as record_schema says.

    `entity_rows` has customer_id, event_timestamp and split of every record: the snapshot it is of, as Feast
    is asked for it. `available` counts the customers that there are records of.
    """

    records: Mapping[str, pa.Table]
    entity_rows: pa.Table
    provenance: Provenance
    seed: int
    available: int


def make_export(
    warehouse: duckdb.DuckDBPyConnection,
    retrieve: Retrieve,
    catalog: FeatureCatalog,
    as_of: datetime,
    sizes: Mapping[str, int] | None,
    seed: int,
) -> Export:
    """The records as of `as_of`; `sizes` are records a split, None: the standard ones, fewer where there are
    fewer customers.

    Equal arguments and warehouse give an equal export. Raises TrainingError when the warehouse holds fewer
    customers than asked for, or no snapshot with all its labels, and as training's data set does.
    """
    labelled = _known_before_the_end(read_labelled_snapshots(warehouse, SPECS, as_of, with_newest=True))
    known = _labels_known(labelled)
    if not (known == len(SPECS)).any():
        raise TrainingError(
            f"No snapshot has all its labels by {as_of:%Y-%m-%d}: they take {_LONGEST_LABEL_DAYS} days of "
            "data after it."
        )
    candidates = best_known(labelled.hashes, known)
    segments = _segments(warehouse, labelled, candidates)
    drawn = draw_snapshots(labelled.hashes[candidates], labelled.snapshots[candidates], segments, seed)
    rows, segments = candidates[drawn], segments[drawn]
    if sizes is None:
        sizes = scaled_sizes(STANDARD_SIZES, len(rows))
    if sum(sizes.values()) > len(rows):
        raise TrainingError(
            f"{_spoken(sizes)} records were asked for, and only {len(rows):,} customers have a snapshot by "
            f"{as_of:%Y-%m-%d}."
        )
    split = split_customers(labelled.hashes[rows], sizes)
    rows, segments, split = (values[split != ""] for values in (rows, segments, split))
    order = np.argsort(labelled.customer_ids[rows])
    rows, segments, split = rows[order], segments[order], split[order]
    table = _records(labelled, rows, segments, retrieve, catalog)
    entity_rows = pa.table(
        {
            catalog.entity_key: table[catalog.entity_key],
            "event_timestamp": pa.array(labelled.snapshots[rows], pa.timestamp("us")),
            "split": pa.array(split, pa.string()),
        }
    )
    return Export(
        records={name: table.filter(pa.array(split == name)) for name in SPLITS},
        entity_rows=entity_rows,
        provenance=Provenance(data_as_of=as_of, labels_until=_labels_until(labelled, rows)),
        seed=seed,
        available=len(drawn),
    )


def scaled_sizes(sizes: Mapping[str, int], available: int) -> dict[str, int]:
    """`sizes` where there are customers enough, else all that there are in the same proportions."""
    total = sum(sizes.values())
    if total <= available:
        return dict(sizes)
    # The places where one split ends and the next begins are rounded, not the sizes: they add up.
    ends = np.cumsum([0, *sizes.values()]) * available // total
    return dict(zip(sizes, np.diff(ends).tolist(), strict=True))


def draw_snapshots(hashes: np.ndarray, snapshots: np.ndarray, segments: np.ndarray, seed: int) -> np.ndarray:
    """One row a customer, int64 (customers,), so that the segment mix is nearly that of all rows.

    `hashes` (of the customer), `snapshots` and `segments` are (rows,). A row is drawn with a probability
    proportional to the weight of its segment. A new week changes the choice of few customers: each row has a
    number of its own, and the lowest of a customer wins.
    """
    keys = (f"{seed} {customer} {day}" for customer, day in zip(hashes, snapshots, strict=True))
    uniform = (customer_hashes(keys) + 0.5) / 2.0**63
    customers = np.unique(hashes, return_inverse=True)[1]
    names, codes = np.unique(segments, return_inverse=True)
    weights = _segment_weights(customers, codes, len(names))
    # The least of exponential numbers with these rates is each with the probability of its share of them.
    waiting = -np.log(uniform) / weights[codes]
    order = np.lexsort((waiting, customers))
    first = np.r_[True, np.diff(customers[order]) > 0]
    return np.sort(order[first])


def split_customers(hashes: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """The split of each customer (hash), '' for those of no split; str (customers,).

    Which customers are left out does not depend on their group (the hash modulo 100), so test and train
    keep their groups whatever the sizes.
    """
    taken = np.lexsort((hashes, hashes // 100))[: sum(sizes.values())]
    ordered = taken[np.lexsort((hashes[taken], hashes[taken] % 100))]
    split = np.full(len(hashes), "", dtype=f"<U{max(map(len, SPLITS))}")
    end = 0
    for name in ("test", "validation", "train"):
        split[ordered[end : end + sizes[name]]] = name
        end += sizes[name]
    return split


def best_known(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The rows, int64, of each customer (hash) at which as many labels are known as at any of the customer's
    rows; `known` is how many, int (rows,).
    """
    customers = np.unique(hashes, return_inverse=True)[1]
    most = np.zeros(len(hashes), dtype=known.dtype)
    np.maximum.at(most, customers, known)
    return np.flatnonzero(known == most[customers])


def _known_before_the_end(labelled: LabelledSnapshots) -> LabelledSnapshots:
    values = dict(labelled.values)
    for spec in SPECS:
        values[spec.label] = np.where(_ended(labelled, spec), values[spec.label], np.nan)
    return replace(labelled, values=values)


def _labels_known(labelled: LabelledSnapshots) -> np.ndarray:
    """How many labels are known of each snapshot, int64 (rows,).

    A first session's success counts when it would be known: whether there is one hangs on what happened.
    """
    counts = np.zeros(len(labelled), dtype=np.int64)
    for spec in SPECS:
        if spec.only_before_first_session:
            counts += _ended(labelled, spec)
        else:
            counts += ~np.isnan(labelled.values[spec.label])
    return counts


def _ended(labelled: LabelledSnapshots, spec: ModelSpec) -> np.ndarray:
    # Before the data end and not at it: then the newest snapshot lies after all that was learned from, and a
    # model that is trained on the export may score it.
    return labelled.snapshots + np.timedelta64(spec.label_days, "D") < labelled.data_end


def _labels_until(labelled: LabelledSnapshots, rows: np.ndarray) -> datetime:
    """The last moment that a label of these rows depends on; the first snapshot when none has a label."""
    last = labelled.snapshots[rows].min()
    for spec in SPECS:
        known = rows[~np.isnan(labelled.values[spec.label][rows])]
        ends = labelled.snapshots[known] + np.timedelta64(spec.label_days, "D")
        last = ends.max(initial=last)
    return last.astype("datetime64[us]").item()


def _segment_weights(customers: np.ndarray, codes: np.ndarray, segments: int) -> np.ndarray:
    """The weights with which drawing one row a customer gives, on average, the mix of all rows."""
    wanted = np.bincount(codes, minlength=segments) / len(codes)
    weights = np.ones(segments)
    count = customers.max() + 1
    for _ in range(_ROUNDS_OF_WEIGHTING):
        weighted = weights[codes]
        chances = weighted / np.bincount(customers, weighted, count)[customers]
        weights *= wanted / (np.bincount(codes, chances, segments) / count)
        weights /= weights.max()
    return weights


def _segments(
    warehouse: duckdb.DuckDBPyConnection, labelled: LabelledSnapshots, rows: np.ndarray
) -> np.ndarray:
    found = query_warehouse(
        warehouse,
        f"select customer_id, feature_timestamp, {SEGMENT} from labels.customer_labels",
    ).to_arrow_table()
    asked = pa.table(
        {
            "customer_id": pa.array(labelled.customer_ids[rows], pa.string()),
            "feature_timestamp": pa.array(labelled.snapshots[rows], pa.timestamp("us")),
            "row": np.arange(len(rows)),
        }
    )
    joined = asked.join(found, ["customer_id", "feature_timestamp"], join_type="left outer").sort_by("row")
    if joined[SEGMENT].null_count:
        raise TrainingError(f"labels.customer_labels has no {SEGMENT} for some snapshots: run `dbt build`.")
    return joined[SEGMENT].to_numpy()


def _records(
    labelled: LabelledSnapshots,
    rows: np.ndarray,
    segments: np.ndarray,
    retrieve: Retrieve,
    catalog: FeatureCatalog,
) -> pa.Table:
    features = retrieve_table(
        labelled.customer_ids[rows], labelled.snapshots[rows], ALL_FEATURES_SERVICE, retrieve
    )
    for name in features.column_names:
        if not pc.all(pc.is_finite(features[name]), min_count=0).as_py():
            raise TrainingError(f"Feature {name} holds a number that is not finite, which no JSON can say.")
    schema = record_schema(catalog)
    columns = {catalog.entity_key: labelled.customer_ids[rows], SEGMENT: segments}
    columns |= {name: features[name] for name in features.column_names}
    for spec in SPECS:
        columns[spec.label] = pa.array(labelled.values[spec.label][rows], from_pandas=True)
    return pa.table(
        [_column(columns[field.name]).cast(field.type) for field in schema], schema=schema
    ).combine_chunks()


def _column(values: object) -> pa.ChunkedArray:
    if isinstance(values, pa.ChunkedArray):
        return values
    return pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values, pa.string())])


def _spoken(sizes: Mapping[str, int]) -> str:
    return " + ".join(f"{sizes[name]:,}" for name in SPLITS)
