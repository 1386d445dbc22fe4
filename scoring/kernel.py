"""The fast path: many boosters at once over Arrow columns, with the bits of Booster.predict.

A tree is usually walked row by row: a chain of dependent loads and unpredictable jumps, some 25 ns a row and
tree. Here a tree is evaluated for a block of rows at once, with comparisons of bytes that the processor does
32 or 64 at a time. The idea is that of QuickScorer (Lucchese et al., SIGIR 2015) and its vectorized
successors (V-QuickScorer, SIGIR 2016; RapidScorer, KDD 2018): compare each feature with all thresholds of
all trees at once, then find each tree's leaf without walking it.

1. `compile_trees` sorts all thresholds of a feature over all trees of all models. Only where a value lies
   among them matters. So a block's column becomes one byte a row, its *code*, by one binary search a value:

       thresholds  0.5   2.0   7.5              x <= 2.0  <=>  code <= 1
       code      0  |  1  |  2  |  3            x  > 2.0  <=>  code  > 1, the threshold's position

   More than 255 thresholds take several bytes a row (each a *lane*), each counting its own 255 thresholds.
   Missing values get a code below or above all thresholds, wherever the default direction leads (`_FORMS`).
   A categorical lane holds eight sets, one a bit: the bit is 1 where the category goes right.

2. `_regions` gives every row of the block a *region* of the tree, 0 at first. Its nodes are taken from the
   root downwards; the one that splits region g moves the rows of g which go right to a new region. The left
   side keeps the number. So a node is, for all rows of the block:

       region[row] = new if code[row] > cut and region[row] == g else region[row]

   LLVM makes that a handful of vector instructions for 32 or 64 rows. In the end each leaf is a region.

3. `_outputs` adds the leaf values in the order of the trees, in float64 and starting at 0: so each sum has
   the bits of LightGBM's. The logistic function calls the C library's exp, as LightGBM does; NumPy's
   may differ in the last bit.

Nothing here depends on the number of rows but the result: a call needs some hundred kilobytes of scratch. The
compiled functions release the GIL, so DuckDB's threads score side by side. Numba compiles them once a
machine, in seconds, and keeps them on disk; a release is then compiled (into the arrays of a `Plan`) in a
fraction of a second.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import carray, njit, types
from numba.extending import intrinsic

from scoring.trees import (
    CATEGORICAL,
    DEFAULT_LEFT,
    MISSING_NAN,
    MISSING_NONE,
    MISSING_SHIFT,
    ZERO_THRESHOLD,
    Tree,
    Trees,
)

# Rows a block: a column of codes is then eight 64-byte registers, and all codes of a block fit the L2 cache.
BLOCK = 512
# Thresholds a lane: codes 0 to 255.
_LANE = 255
# Category sets that one look-up answers for: the bits of a 64-bit word, which fill eight lanes.
_WORD = 64
_LANES_A_WORD = 8

# What becomes of a missing value, for all numerical nodes of a feature that agree in it. What is missing goes
# below all thresholds where the default direction is left, above all where it is right.
_NAN_IS_ZERO, _NAN_LEFT, _NAN_RIGHT, _NAN_AND_ZERO_LEFT, _NAN_AND_ZERO_RIGHT = _FORMS = range(5)

# How a column is stored: Arrow type → number known to _load.
_STORAGE = {pa.float64(): 0, pa.float32(): 1, pa.int32(): 2, pa.int64(): 3}


class Plan(NamedTuple):
    """Boosters, compiled: the arrays that the functions below run on.

    A row of `numbers` is a numerical feature in one form: (feature, form, first of its thresholds, size of
    its search, number of thresholds, first lane, number of lanes). `thresholds` are padded with infinity to
    a power of two less one each. A row of `categoricals`: (feature, number of categories, first of its
    words, number of words a category, first lane). `words` holds, word by word, one word a category and one
    for all others.

    A node tests lane `node_lane`; `node_cut` is the threshold's position in it, or the bit of the set. Nodes
    lie in the order in which they are taken, those of tree t from `tree_nodes[t]` to `tree_nodes[t + 1]`;
    its leaf values, by region, from `tree_leaves[t]`; the trees of model m from `model_trees[m]`. `sigmoid`
    is NaN for a model whose output is the sum itself.
    """

    numbers: np.ndarray
    thresholds: np.ndarray
    categoricals: np.ndarray
    words: np.ndarray
    node_lane: np.ndarray
    node_cut: np.ndarray
    node_is_categorical: np.ndarray
    node_region: np.ndarray
    tree_nodes: np.ndarray
    tree_leaves: np.ndarray
    leaf_values: np.ndarray
    model_trees: np.ndarray
    sigmoid: np.ndarray
    lanes: int


class Columns(NamedTuple):
    """Where the children of a struct array hold what a kernel reads.

    `children` and `storage` say it for each of the kernel's features; `required` lists the children in which
    no value may be null.
    """

    children: np.ndarray
    storage: np.ndarray
    required: np.ndarray


# === Compiling ==============================================================================================


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
    waiting = [(0 if left else ~0, 0)]
    while waiting:
        node, region = waiting.pop()
        if node < 0:
            leaves[region] = ~node
            continue
        nodes.append(node)
        regions.append(region)
        waiting.append((right[node], len(nodes)))
        waiting.append((left[node], region))
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
    tree_nodes, tree_leaves, model_trees = [0], [0], [0]
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
            leaf_values.append(tree.leaf_value[order.leaves])
            tree_nodes.append(len(region))
            tree_leaves.append(tree_leaves[-1] + len(order.leaves))
        model_trees.append(len(tree_nodes) - 1)

    most_leaves = max((len(values) for values in leaf_values), default=1)
    lanes = _Lanes(_joined(feature, np.int64), _joined(threshold, np.float64), _joined(kind, np.int64))
    lanes.add_numbers()
    lanes.add_categories(categories)
    return Plan(
        numbers=np.array(lanes.numbers, dtype=np.int64).reshape(-1, 7),
        thresholds=_joined(lanes.thresholds, np.float64),
        categoricals=np.array(lanes.categoricals, dtype=np.int64).reshape(-1, 5),
        words=_joined(lanes.words, np.uint64),
        node_lane=lanes.lane,
        node_cut=lanes.cut,
        node_is_categorical=lanes.is_categorical,
        # A byte a row, unless a tree has more leaves than a byte counts: then two, at half the speed.
        node_region=np.array(region, dtype=np.uint8 if most_leaves <= 256 else np.uint16),
        tree_nodes=np.array(tree_nodes, dtype=np.int64),
        tree_leaves=np.array(tree_leaves, dtype=np.int64),
        leaf_values=_joined(leaf_values, np.float64),
        model_trees=np.array(model_trees, dtype=np.int64),
        sigmoid=np.array([np.nan if booster.sigmoid is None else booster.sigmoid for booster in boosters]),
        lanes=lanes.count,
    )


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)


class _Lanes:
    """Gives every node of all trees its lane and its cut, and says how the lanes are filled."""

    def __init__(self, feature: np.ndarray, threshold: np.ndarray, kind: np.ndarray) -> None:
        self.feature, self.threshold = feature, threshold
        self.is_categorical = (kind & CATEGORICAL) > 0
        missing = kind >> MISSING_SHIFT & 3
        goes_left = (kind & DEFAULT_LEFT) > 0
        self.form = np.select(
            [missing == MISSING_NONE, missing == MISSING_NAN],
            [_NAN_IS_ZERO, np.where(goes_left, _NAN_LEFT, _NAN_RIGHT)],
            np.where(goes_left, _NAN_AND_ZERO_LEFT, _NAN_AND_ZERO_RIGHT),
        )
        self.lane = np.zeros(len(feature), dtype=np.int32)
        self.cut = np.zeros(len(feature), dtype=np.uint8)
        self.count = 0
        self.numbers: list[tuple[int, ...]] = []
        self.thresholds: list[np.ndarray] = []
        self.categoricals: list[tuple[int, ...]] = []
        self.words: list[np.ndarray] = []

    def add_numbers(self) -> None:
        """Lanes for the numerical nodes: one set of thresholds for each feature and form that occur."""
        first = 0
        pairs = np.unique(
            np.stack([self.feature, self.form])[:, ~self.is_categorical].astype(np.int64), axis=1
        )
        for feature, form in pairs.T.tolist():
            nodes = np.flatnonzero((self.feature == feature) & (self.form == form) & ~self.is_categorical)
            cuts, position = np.unique(self.threshold[nodes], return_inverse=True)
            self.lane[nodes] = self.count + position // _LANE
            self.cut[nodes] = position % _LANE
            size = 1 << len(cuts).bit_length()
            self.thresholds.append(np.concatenate([cuts, np.full(size - 1 - len(cuts), np.inf)]))
            lanes = -(-len(cuts) // _LANE)
            self.numbers.append((feature, form, first, size, len(cuts), self.count, lanes))
            first += size - 1
            self.count += lanes

    def add_categories(self, categories: Sequence[np.ndarray | None]) -> None:
        """Lanes for the categorical nodes: a bit for each feature and set that occur."""
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
                self.lane[node] = self.count + number // 8
                self.cut[node] = 1 << number % 8
            size = 1 + max((int(lefts.max()) for lefts in sets if len(lefts)), default=-1)
            words = np.full((-(-len(sets) // _WORD), size + 1), ~np.uint64(0))
            for number, lefts in enumerate(sets):
                words[number // _WORD, lefts] &= ~(np.uint64(1) << np.uint64(number % _WORD))
            self.words.append(words.ravel())
            self.categoricals.append((feature, size, first, len(words), self.count))
            first += words.size
            self.count += len(words) * _LANES_A_WORD


# === The Arrow columns ======================================================================================


class _Address(NamedTuple):
    """Words of the ArrowArray structure of Arrow's C data interface, each 64 bits, that are read here."""

    length: int = 0
    null_count: int = 1
    offset: int = 2
    buffers: int = 5
    children: int = 6


_FIELD = _Address()


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    """An address as the pointer that `carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.intp), generate


@njit(nogil=True)
def _word(address: int, index: int) -> int:
    return carray(_pointer(address), index + 1, np.int64)[index]


@njit(nogil=True)
def load(column: int, storage: int, offset: int, first: int, count: int, values: np.ndarray) -> None:
    """Rows of the Arrow array at an address as float64; the values of nulls may be anything."""
    start = offset + _word(column, _FIELD.offset) + first
    data = _pointer(_word(_word(column, _FIELD.buffers), 1))
    if storage == 0:
        values[:count] = carray(data, start + count, np.float64)[start:]
    elif storage == 1:
        values[:count] = carray(data, start + count, np.float32)[start:]
    elif storage == 2:
        values[:count] = carray(data, start + count, np.int32)[start:]
    else:
        values[:count] = carray(data, start + count, np.int64)[start:]


@njit(nogil=True)
def _mark_nulls(array: int, offset: int, incomplete: np.ndarray) -> bool:
    """Mark the rows in which an Arrow array is null; whether there were any."""
    validity = _word(_word(array, _FIELD.buffers), 0)
    if validity == 0 or _word(array, _FIELD.null_count) == 0:
        return False
    start = offset + _word(array, _FIELD.offset)
    bits = carray(_pointer(validity), (start + len(incomplete) + 7) // 8, np.uint8)
    found = False
    for row in range(len(incomplete)):
        at = start + row
        if not bits[at >> 3] >> (at & 7) & 1:
            incomplete[row] = True
            found = True
    return found


@njit(nogil=True, cache=True)
def _find_incomplete(array: int, required: np.ndarray, incomplete: np.ndarray) -> bool:
    """Mark the rows that are null, or null in a required child; whether there were any."""
    found = _mark_nulls(array, 0, incomplete)
    for child in required:
        column = _word(_word(array, _FIELD.children), child)
        found |= _mark_nulls(column, _word(array, _FIELD.offset), incomplete)
    return found


# === Running ================================================================================================


@njit(nogil=True)
def fill_lanes(plan: Plan, columns: Columns, array: int, first: int, count: int, codes: np.ndarray) -> None:
    """The codes of `count` rows from row `first` on: uint8 (lanes, BLOCK)."""
    children, offset = _word(array, _FIELD.children), _word(array, _FIELD.offset)
    values = np.zeros(BLOCK, np.float64)
    place = np.zeros(BLOCK, np.int64)
    word = np.zeros(BLOCK, np.uint64)
    for number in range(len(plan.numbers)):
        feature, form, begin, size, cuts, lane, lanes = plan.numbers[number]
        load(
            _word(children, columns.children[feature]), columns.storage[feature], offset, first, count, values
        )
        thresholds = plan.thresholds[begin : begin + size - 1]
        for row in range(count):
            value = values[row]
            if abs(value) <= ZERO_THRESHOLD or (form == _NAN_IS_ZERO and math.isnan(value)):
                value = 0.0
            values[row] = value
            # Binary search without a jump: how many thresholds lie below the value.
            below = 0
            step = size >> 1
            while step:
                below += step * (thresholds[below + step - 1] < value)
                step >>= 1
            place[row] = below
        if form != _NAN_IS_ZERO:
            lowest = form in (_NAN_LEFT, _NAN_AND_ZERO_LEFT)
            zero_too = form in (_NAN_AND_ZERO_LEFT, _NAN_AND_ZERO_RIGHT)
            for row in range(count):
                if math.isnan(values[row]) or (zero_too and values[row] == 0.0):
                    place[row] = 0 if lowest else cuts
        for each in range(lanes):
            for row in range(count):
                codes[lane + each, row] = np.uint8(min(max(place[row] - each * _LANE, 0), _LANE))
    for number in range(len(plan.categoricals)):
        feature, size, begin, words, lane = plan.categoricals[number]
        load(
            _word(children, columns.children[feature]), columns.storage[feature], offset, first, count, values
        )
        for row in range(count):
            value = values[row]
            # The fraction is cut off, so what is above -1 is category 0; NaN is in no range.
            place[row] = np.int64(value) if -1.0 < value < size else size
        for each in range(words):
            table = plan.words[begin + each * (size + 1) : begin + (each + 1) * (size + 1)]
            for row in range(count):
                word[row] = table[place[row]]
            for part in range(_LANES_A_WORD):
                for row in range(count):
                    codes[lane + each * _LANES_A_WORD + part, row] = np.uint8(
                        word[row] >> np.uint64(8 * part) & np.uint64(255)
                    )


@njit(nogil=True)
def _regions(plan: Plan, tree: int, codes: np.ndarray, region: np.ndarray) -> None:
    """Each row's region of a tree in the end: the number of its leaf."""
    region[:] = 0
    begin = plan.tree_nodes[tree]
    for node in range(begin, plan.tree_nodes[tree + 1]):
        code = codes[plan.node_lane[node]]
        cut = plan.node_cut[node]
        split = plan.node_region[node]
        new = region.dtype.type(node - begin + 1)
        # `&`, not `and`, and an assignment in any case: no jump, so that LLVM makes it vector instructions.
        if plan.node_is_categorical[node]:
            for row in range(BLOCK):
                region[row] = new if ((code[row] & cut) != 0) & (region[row] == split) else region[row]
        else:
            for row in range(BLOCK):
                region[row] = new if (code[row] > cut) & (region[row] == split) else region[row]


@njit(nogil=True, cache=True)
def _outputs(plan: Plan, columns: Columns, array: int, outputs: np.ndarray) -> None:
    """Fill `outputs`, float64 (models, rows), from the Arrow struct array at an address."""
    codes = np.zeros((plan.lanes, BLOCK), np.uint8)
    region = np.zeros(BLOCK, plan.node_region.dtype)
    sums = np.zeros(BLOCK, np.float64)
    for first in range(0, outputs.shape[1], BLOCK):
        count = min(BLOCK, outputs.shape[1] - first)
        fill_lanes(plan, columns, array, first, count, codes)
        for model in range(outputs.shape[0]):
            sums[:] = 0.0
            for tree in range(plan.model_trees[model], plan.model_trees[model + 1]):
                _regions(plan, tree, codes, region)
                values = plan.leaf_values[plan.tree_leaves[tree] : plan.tree_leaves[tree + 1]]
                for row in range(BLOCK):
                    sums[row] += values[region[row]]
            factor = plan.sigmoid[model]
            for row in range(count):
                total = sums[row]
                outputs[model, first + row] = (
                    total if math.isnan(factor) else 1.0 / (1.0 + math.exp(-factor * total))
                )


class Kernel:
    """Several boosters, compiled to score the rows of struct arrays together.

    Safe to be called by several threads at once.
    """

    def __init__(self, boosters: Sequence[Trees]) -> None:
        """Compile the boosters; `features` are then the names of all their features."""
        self.features = tuple(dict.fromkeys(name for booster in boosters for name in booster.feature_names))
        self.plan = compile_trees(boosters, self.features)
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
            _outputs(self.plan, columns, address, outputs)
            return outputs, incomplete_rows(columns, address, len(rows))

    def columns(self, rows: pa.StructType, required: Sequence[str]) -> Columns:
        """Where arrays of a type hold the features; remembered, since a query brings the same type again."""
        known = self._known
        if known is None or known[0] != rows or known[1] != required:
            known = self._known = rows, required, _find_columns(rows, self.features, required)
        return known[2]


def incomplete_rows(columns: Columns, address: int, count: int) -> np.ndarray | None:
    """Which rows of the array at `address` are null or have a null that they must not have; None: no row."""
    incomplete = np.zeros(count, dtype=np.bool_)
    return incomplete if _find_incomplete(address, columns.required, incomplete) else None


class ArrowAddress:
    """The address of an array's structure in Arrow's C data interface, valid within a `with` block.

    So all columns are reached by one call from Python, and read where they lie.
    """

    def __init__(self, array: pa.Array) -> None:
        self._capsules = array.__arrow_c_array__()

    def __enter__(self) -> int:
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype = ctypes.c_void_p
        get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        return get_pointer(self._capsules[1], b"arrow_array")

    def __exit__(self, *exception: object) -> None:
        del self._capsules  # releases the structure


def _find_columns(rows: pa.StructType, features: Sequence[str], required: Sequence[str]) -> Columns:
    for name in dict.fromkeys((*features, *required)):
        if rows.get_field_index(name) < 0:
            raise ValueError(f"The rows have no single field '{name}', which the models need.")
    for name in features:
        if rows.field(name).type not in _STORAGE:
            raise ValueError(
                f"The field '{name}' has type {rows.field(name).type}, and scoring reads "
                f"{', '.join(map(str, _STORAGE))}."
            )
    return Columns(
        children=np.array([rows.get_field_index(name) for name in features], dtype=np.int64),
        storage=np.array([_STORAGE[rows.field(name).type] for name in features], dtype=np.int64),
        required=np.array([rows.get_field_index(name) for name in required], dtype=np.int64),
    )
