"""The fast path: many boosters at once over Arrow columns, with the bits of Booster.predict.

A tree is usually walked row by row: a chain of dependent loads and unpredictable jumps, some 25 ns a row and
tree. Here 512 rows go through a tree at once, as bits: a *mask* is 512 bits, one a row. The idea is that
of QuickScorer (Lucchese et al., SIGIR 2015) and its vectorized successors (V-QuickScorer, SIGIR 2016;
RapidScorer, KDD 2018): do each test of a feature once for all trees that ask it, and find a tree's leaf by
operations on bits, without walking it. Three steps for each block of rows (scoring/compiled.py):

1. Each different test, a feature with a threshold or with a set of categories, gets a mask: the rows that go
   right. Five models of some 57,000 nodes ask only some 9,000 different tests. All thresholds of a feature
   are done together: how many of them lie below a value. A thousand buckets of equal width say how many lie
   in those before the value's; those of its own are compared with it, eight at a time. The counts, one byte a
   row, become planes (see below), and from these follow the masks of all thresholds: the rows whose count is
   above the threshold's place.

       thresholds   0.5   2.0   7.5        two lie below 3.1, more than 0 and 1 and not more than 2:
       place          0     1     2        so it goes right at 0.5 and at 2.0
       mask           1     1     0

   For whole numbers a table holds the count.

   Missing values are put below or above all thresholds, wherever the default direction leads (`_forms`). Of
   categories, the rows of each have a mask, and a set's is the union of its own.

2. A tree starts with one *region*, all rows. Its nodes are taken from the root downwards; each moves those
   rows of its region that go right to a new region: `moved = region & mask`, `region ^= moved`. In the end
   each region is a leaf, and each row is in one. So the bits of the numbers of the rows' leaves, as *planes*,
   one a bit, are found for all rows at once: plane 0 is the `xor` of regions 1, 3, 5, ..., plane 1 that of
   2, 3, 6, 7, ..., and so on. Transposed, the planes give each row its leaf's number.

3. The leaf values, looked up by halves in the registers of AVX-512 where the machine has it, are added in
   the order of the trees, in float64 and starting at 0: so each sum has the bits of LightGBM's. The logistic
   function calls the C library's exp, as LightGBM does; NumPy's may differ in the last bit.

Nothing here depends on the number of rows but the result: a call needs about a megabyte of scratch. The
compiled functions release the GIL, so DuckDB's threads score side by side. Numba compiles them once a
machine, in seconds, and keeps them on disk; a release is then compiled (into the arrays of a `Plan`) in a
fraction of a second.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from scoring.arrow import ArrowAddress, find_columns, incomplete_rows
from scoring.compiled import (
    BLOCK,
    BUCKETS,
    FEW_LEAVES,
    GROUP,
    NAN_AND_ZERO_LEFT,
    NAN_AND_ZERO_RIGHT,
    NAN_IS_ZERO,
    NAN_LEFT,
    NAN_RIGHT,
    Columns,
    Plan,
    fill_outputs,
)
from scoring.cores import Cores
from scoring.trees import (
    CATEGORICAL,
    DEFAULT_LEFT,
    MISSING_NAN,
    MISSING_NONE,
    MISSING_SHIFT,
    Tree,
    Trees,
)

# A feature of whole numbers is looked up in a table while that is small beside a processor's nearest cache.
_MOST_WHOLE_NUMBERS = 4096


class Order(NamedTuple):
    """A tree's nodes from the root downwards, the region that each splits, and each region's leaf."""

    nodes: list[int]
    regions: list[int]
    leaves: list[int]


def evaluation_order(tree: Tree) -> Order:
    """The k-th node (from 0) moves rows of its region that go right to region k + 1; region 0 is all rows."""
    left, right = tree.left_child.tolist(), tree.right_child.tolist()
    nodes: list[int] = []
    regions: list[int] = []
    leaves = [0] * (len(left) + 1)
    waiting = deque([(0 if left else ~0, 0)])
    while waiting:
        node, region = waiting.popleft()
        if node < 0:
            leaves[region] = ~node
            continue
        nodes.append(node)
        regions.append(region)
        waiting.append((left[node], region))
        waiting.append((right[node], len(nodes)))
    return Order(nodes, regions, leaves)


def compile_trees(boosters: Sequence[Trees], features: Sequence[str]) -> Plan:
    """Boosters whose features are among `features`, as arrays that number features by their place there."""
    place = {name: index for index, name in enumerate(features)}
    feature: list[np.ndarray] = []
    threshold: list[np.ndarray] = []
    kind: list[np.ndarray] = []
    region: list[int] = []
    categories: list[np.ndarray | None] = []
    leaf_values: list[np.ndarray] = []
    tree_nodes, tree_leaves, tree_planes, model_trees = [0], [0], [], [0]
    for booster in boosters:
        places = np.array([place[name] for name in booster.feature_names], dtype=np.int64)
        for tree in booster.trees:
            order = evaluation_order(tree)
            nodes = np.array(order.nodes, dtype=np.int64)
            feature.append(places[tree.split_feature[nodes]])
            threshold.append(tree.threshold[nodes])
            kind.append(tree.decision_type[nodes])
            region += order.regions
            categories += [tree.categories[node] for node in order.nodes]
            tree_nodes.append(len(region))

            leaves = len(order.leaves)
            tree_planes.append(max(len(nodes).bit_length(), FEW_LEAVES.bit_length() - 1))
            leaf_values.append(np.pad(tree.leaf_value[order.leaves], (0, -leaves % FEW_LEAVES)))
            tree_leaves.append(tree_leaves[-1] + len(leaf_values[-1]))
        model_trees.append(len(tree_planes))

    tests = _Tests(_joined(feature, np.int64), _joined(threshold, np.float64), _joined(kind, np.int64))
    tests.add_numbers()
    tests.add_categories(categories)
    return Plan(
        numbers=np.array(tests.numbers, dtype=np.int64).reshape(-1, 8),
        thresholds=_joined(tests.thresholds, np.float64),
        buckets=np.array(tests.buckets, dtype=np.float64).reshape(-1, 2),
        bucket_begins=np.array(tests.bucket_begins, dtype=np.int32).reshape(-1, BUCKETS),
        whole_numbers=_joined(tests.whole_numbers, np.int32),
        lowest_whole=np.array(tests.lowest_whole, dtype=np.int64),
        categoricals=np.array(tests.categoricals, dtype=np.int64).reshape(-1, 7),
        category_slots=_joined(tests.category_slots, np.int32),
        set_begins=np.array(tests.set_begins, dtype=np.int64),
        set_slots=_joined(tests.set_slots, np.int32),
        node_mask=tests.mask,
        node_region=np.array(region, dtype=np.int32),
        tree_nodes=np.array(tree_nodes, dtype=np.int64),
        tree_planes=np.array(tree_planes, dtype=np.int64),
        tree_leaves=np.array(tree_leaves, dtype=np.int64),
        leaf_values=_joined(leaf_values, np.float64),
        model_trees=np.array(model_trees, dtype=np.int64),
        sigmoid=np.array([np.nan if booster.sigmoid is None else booster.sigmoid for booster in boosters]),
        masks=tests.count,
        slots=max((used for _, _, _, used, *_ in tests.categoricals), default=0),
        regions=(1 + max(np.diff(tree_nodes), default=0) // FEW_LEAVES) * FEW_LEAVES,
    )


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)


def _forms(kind: np.ndarray) -> np.ndarray:
    """What becomes of missing values, by decision type."""
    missing = kind >> MISSING_SHIFT & 3
    goes_left = (kind & DEFAULT_LEFT) > 0
    return np.select(
        [missing == MISSING_NONE, missing == MISSING_NAN],
        [NAN_IS_ZERO, np.where(goes_left, NAN_LEFT, NAN_RIGHT)],
        np.where(goes_left, NAN_AND_ZERO_LEFT, NAN_AND_ZERO_RIGHT),
    )


def _whole_numbers(cuts: np.ndarray, form: int) -> tuple[int, np.ndarray]:
    """The lowest whole number, and how many of the sorted thresholds lie below it and each after it.

    Beyond both ends nothing changes. No number where they would be more than _MOST_WHOLE_NUMBERS.
    """
    lowest, highest = min(float(cuts[0]), 0.0) - 2.0, max(float(cuts[-1]), 0.0) + 2.0
    if not highest - lowest < _MOST_WHOLE_NUMBERS:
        return 0, np.empty(0, dtype=np.int32)
    numbers = np.arange(math.floor(lowest), math.ceil(highest) + 1)
    found = np.searchsorted(cuts, numbers.astype(np.float64), side="left")
    if form in (NAN_AND_ZERO_LEFT, NAN_AND_ZERO_RIGHT):
        found[numbers == 0] = 0 if form == NAN_AND_ZERO_LEFT else len(cuts)
    return int(numbers[0]), found.astype(np.int32)


def _buckets(cuts: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Lowest value and scale of the buckets of sorted thresholds, and each threshold's bucket.

    All thresholds are in the first bucket where buckets would not be finite.
    """
    # Values may have a few extremes; so as many as can be compared at once stay in the first and last bucket.
    outside = max(min(GROUP, len(cuts) // 2), 1)
    lowest, highest = float(cuts[outside - 1]), float(cuts[-outside])
    with np.errstate(all="ignore"):
        scale = np.float64(BUCKETS - 1) / (np.float64(highest) - lowest)
        if not (0.0 < scale < np.inf):
            return lowest, 0.0, np.zeros(len(cuts), dtype=np.int64)
        return lowest, float(scale), np.clip((cuts - lowest) * scale, 0, BUCKETS - 1).astype(np.int64)


class _Tests:
    """Gives every node of all trees the mask of its test, and says how the masks are filled."""

    def __init__(self, feature: np.ndarray, threshold: np.ndarray, kind: np.ndarray) -> None:
        self.feature, self.threshold, self.form = feature, threshold, _forms(kind)
        self.is_categorical = (kind & CATEGORICAL) > 0
        self.mask = np.zeros(len(feature), dtype=np.int32)
        self.count = 0
        self.numbers: list[tuple[int, ...]] = []
        self.thresholds: list[np.ndarray] = []
        self.buckets: list[tuple[float, float]] = []
        self.bucket_begins: list[np.ndarray] = []
        self.whole_numbers: list[np.ndarray] = []
        self.lowest_whole: list[int] = []
        self.categoricals: list[tuple[int, ...]] = []
        self.category_slots: list[np.ndarray] = []
        self.set_begins = [0]
        self.set_slots: list[np.ndarray] = []

    def add_numbers(self) -> None:
        """Masks for the numerical nodes: the thresholds of each feature and form that occur."""
        first, first_whole = 0, 0
        pairs = np.unique(np.stack([self.feature, self.form])[:, ~self.is_categorical], axis=1)
        for feature, form in pairs.T.tolist():
            nodes = np.flatnonzero((self.feature == feature) & (self.form == form) & ~self.is_categorical)
            cuts, position = np.unique(self.threshold[nodes], return_inverse=True)
            self.mask[nodes] = self.count + position
            start, scale, bucket = _buckets(cuts)
            self.buckets.append((start, scale))
            begins = np.searchsorted(bucket, np.arange(BUCKETS + 1))
            self.bucket_begins.append(begins[:-1])
            groups = -(-int(np.diff(begins).max()) // GROUP)
            self.thresholds.append(np.pad(cuts, (0, groups * GROUP), constant_values=np.inf))
            lowest, found = _whole_numbers(cuts, form)
            self.whole_numbers.append(found)
            self.lowest_whole.append(lowest)
            self.numbers.append(
                (feature, form, first, len(cuts), groups, self.count, first_whole, len(found))
            )
            first += len(self.thresholds[-1])
            first_whole += len(found)
            self.count += len(cuts)

    def add_categories(self, categories: Sequence[np.ndarray | None]) -> None:
        """Masks for the categorical nodes: the sets of each feature that occur."""
        first = 0
        for feature in np.unique(self.feature[self.is_categorical]).tolist():
            numbered: dict[bytes, int] = {}
            sets: list[np.ndarray] = []
            for node in np.flatnonzero((self.feature == feature) & self.is_categorical).tolist():
                lefts = categories[node]
                assert lefts is not None
                number = numbered.setdefault(lefts.tobytes(), len(numbered))
                if number == len(sets):
                    sets.append(lefts)
                self.mask[node] = self.count + number
            used = np.unique(np.concatenate(sets))
            slots = np.zeros(int(used.max(initial=-1)) + 1, dtype=np.int32)
            slots[used] = np.arange(1, len(used) + 1)
            self.categoricals.append(
                (feature, len(slots), first, 1 + len(used), len(self.set_begins) - 1, len(sets), self.count)
            )
            self.category_slots.append(slots)
            for lefts in sets:
                self.set_slots.append(slots[lefts])
                self.set_begins.append(self.set_begins[-1] + len(lefts))
            first += len(slots)
            self.count += len(sets)


class Kernel:
    """Several boosters, compiled to score the rows of struct arrays together.

    Safe to be called by several threads at once.
    """

    def __init__(self, boosters: Sequence[Trees]) -> None:
        """Compile the boosters; `features` are then the names of all their features."""
        self.features = tuple(dict.fromkeys(name for booster in boosters for name in booster.feature_names))
        self.plan = compile_trees(boosters, self.features)
        self._cores = Cores()
        self._known: tuple[pa.DataType, Sequence[str], Columns] | None = None

    def outputs(
        self, rows: pa.StructArray, required: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Each booster's output, float64 (boosters, rows), and which rows are incomplete (None: no row is).

        The outputs are those of Booster.predict. A row is incomplete when it is null or has a null in one of
        the fields `required`; its outputs mean nothing. Raises ValueError for a field that is missing or not
        a number.
        """
        outputs = np.empty((len(self.plan.sigmoid), len(rows)))
        with ArrowAddress(rows) as address:
            columns = self.columns(rows.type, required)
            self.run(
                lambda begin, end: fill_outputs(self.plan, columns, address, begin, end, outputs), len(rows)
            )
            return outputs, incomplete_rows(columns, address, len(rows))

    def columns(self, rows: pa.StructType, required: Sequence[str]) -> Columns:
        """Where arrays of a type hold the features; remembered, since a query brings the same type again."""
        known = self._known
        if known is None or known[0] != rows or known[1] != required:
            known = self._known = rows, required, find_columns(rows, self.features, required)
        return known[2]

    def run(self, work: Callable[[int, int], None], rows: int) -> None:
        """Do compiled work on rows, on a second core too where one is idle (`Cores.run`)."""
        self._cores.run(work, rows, BLOCK)
