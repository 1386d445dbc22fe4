"""The inner loops of scoring and reasons: everything that Numba compiles, in one file.

One file, because Numba keeps compiled functions on disk and makes them anew only when the file of the
function itself changes, not when one does from which it calls something.

All of it works on blocks of 512 rows. What is known of a block is held in *masks*: 512 bits, one a row,
in 64-bit words. A mask is one register of AVX-512, two of AVX2, four of NEON; the first functions below
say so to LLVM, which picks the instructions of the machine. scoring/kernel.py says what the masks mean.

Compiled functions release the GIL, and read Arrow columns where they lie, by address.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from scoring.trees import ZERO_THRESHOLD

# A power of two: LLVM pads other vectors, and they would no longer lie as in an array.
WORDS = 8
BLOCK = 64 * WORDS
# Bits of the widest number that masks are transposed to, one byte eight of them.
BYTES = 8

# What becomes of a missing value in the tests of a feature that agree in it. What is missing lies below all
# thresholds where the default direction is left, above all where it is right.
NAN_IS_ZERO, NAN_LEFT, NAN_RIGHT, NAN_AND_ZERO_LEFT, NAN_AND_ZERO_RIGHT = range(5)

# How a column is stored (Columns.storage).
FLOAT64, FLOAT32, INT32, INT64 = range(4)

# Words of the ArrowArray structure of Arrow's C data interface, each 64 bits, that are read here.
_NULL_COUNT, _OFFSET, _BUFFERS, _CHILDREN = 1, 2, 5, 6


class Plan(NamedTuple):
    """Boosters, compiled: the arrays that the functions below run on.

    A row of `numbers` is a numerical feature in one form: (feature, form, first of its thresholds, size of
    its search, number of thresholds, first of its masks, first of its `whole_numbers`, how many).
    `thresholds` are padded with infinity to a power of two less one each. The first mask is scratch, the k-th
    after it that of the k-th threshold. `whole_numbers` are what the search would find for the whole numbers
    from `lowest_whole[row of numbers]` on; before and after them nothing changes. There are none where the
    thresholds lie far apart.

    A row of `categoricals` is a categorical feature: (feature, number of categories, first of its
    `category_slots`, number of slots, first of its sets, number of sets, first of its masks). A category's
    slot is 0 where no set holds it. Set k holds the slots `set_slots[set_begins[k]]` to `[k + 1]`.

    Node n has the mask `node_mask[n]` and splits the region `node_region[n]` of its tree. Nodes lie in the
    order in which they are taken, those of tree t from `tree_nodes[t]` to `tree_nodes[t + 1]`. The rows that
    node n moves change the plane `node_plane[n]`, and those from `node_toggles[n]` to `[n + 1]` of
    `toggle_plane`; `tree_planes[t]` is the number of planes. Leaf values, by the number that the planes
    spell, lie from `tree_leaves[t]` on; the trees of model m from `model_trees[m]` on.
    `sigmoid` is NaN for a model whose output is the sum itself. `masks`, `slots`, `regions` and `planes` are
    the sizes of the scratch that a call needs.
    """

    numbers: np.ndarray
    thresholds: np.ndarray
    whole_numbers: np.ndarray
    lowest_whole: np.ndarray
    categoricals: np.ndarray
    category_slots: np.ndarray
    set_begins: np.ndarray
    set_slots: np.ndarray
    node_mask: np.ndarray
    node_region: np.ndarray
    tree_nodes: np.ndarray
    node_plane: np.ndarray
    node_toggles: np.ndarray
    toggle_plane: np.ndarray
    tree_planes: np.ndarray
    tree_leaves: np.ndarray
    leaf_values: np.ndarray
    model_trees: np.ndarray
    sigmoid: np.ndarray
    masks: int
    slots: int
    regions: int


class Paths(NamedTuple):
    """The leaves' paths as arrays (scoring/reasons.py).

    Leaf k has the conditions `leaf_conditions[k]` to `[k + 1]`, each (mask of the plan, 1 for its right side,
    number of the leaf's feature that it tests), and the features `leaf_features[k]` to `[k + 1]`, one bit of
    the pattern each, with their z in `shares`. `leaf_table[k]` is where its table begins in `tables`
    (features × patterns, or one weight a pattern), -1 when it has none.
    """

    conditions: np.ndarray
    leaf_conditions: np.ndarray
    features: np.ndarray
    shares: np.ndarray
    leaf_features: np.ndarray
    leaf_value: np.ndarray
    leaf_table: np.ndarray
    tables: np.ndarray


class Columns(NamedTuple):
    """Where the children of a struct array hold what is read.

    `children` and `storage` (FLOAT64 to INT64) say it for each feature; `required`
    lists the children in which no value may be null.
    """

    children: np.ndarray
    storage: np.ndarray
    required: np.ndarray


# === Masks ==================================================================================================

_WORD = ir.IntType(64)
_MASK = ir.VectorType(_WORD, WORDS)
_BYTES_OF_WORD = ir.VectorType(ir.IntType(8), 64)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any, element: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(builder.bitcast(data, element.as_pointer()), [index])


def _on_masks(operation: Callable[[Any, Any, Any], Any]) -> Any:
    """A compiled function (into, i, left, j, right, k): mask i of `into` from j of `left` and k of `right`.

    The three arrays are uint64 (masks, WORDS), contiguous, the indices int64. LLVM makes a few vector
    instructions of it. A loop over the words would be left scalar, as it cannot tell that arrays are apart.
    """

    @intrinsic
    def on_masks(_typing: Any, into: Any, i: Any, left: Any, j: Any, right: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, one, other = (
                _address(context, builder, signature.args[at], arguments[at], arguments[at + 1], _MASK)
                for at in (0, 2, 4)
            )
            # NumPy aligns arrays to 16 bytes, LLVM would assume 64.
            result = operation(builder, builder.load(one, align=8), builder.load(other, align=8))
            builder.store(result, target, align=8)
            return context.get_dummy_value()

        return types.void(into, types.int64, left, types.int64, right, types.int64), generate

    return on_masks


_and = _on_masks(lambda builder, one, other: builder.and_(one, other))
_and_not = _on_masks(lambda builder, one, other: builder.and_(one, builder.not_(other)))
_or = _on_masks(lambda builder, one, other: builder.or_(one, other))
_xor = _on_masks(lambda builder, one, other: builder.xor(one, other))


@intrinsic
def _move(
    _typing: Any, masks: Any, test: Any, regions: Any, region: Any, new: Any, planes: Any, plane: Any
) -> Any:
    """Move the rows of a region that the test sends right to a new region, and change their bit in a plane.

    As four of the functions above, with what is moved kept in registers.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(array: int, index: int) -> Any:
            return _address(
                context, builder, signature.args[array], arguments[array], arguments[index], _MASK
            )

        split, toggled = address(2, 3), address(5, 6)
        rows = builder.load(split, align=8)
        moved = builder.and_(rows, builder.load(address(0, 1), align=8))
        builder.store(builder.xor(rows, moved), split, align=8)
        builder.store(moved, address(2, 4), align=8)
        builder.store(builder.xor(builder.load(toggled, align=8), moved), toggled, align=8)
        return context.get_dummy_value()

    index = types.int64
    return types.void(masks, index, regions, index, index, planes, index), generate


def _on_planes(count: int) -> Any:
    """A compiled function (planes, first, word, numbers, byte): `count` planes as the bytes of 64 rows.

    The planes from `first` on are transposed, 64 rows of each, into `numbers`, uint8 (rows, BLOCK).
    """

    @intrinsic
    def on_planes(_typing: Any, planes: Any, first: Any, word: Any, numbers: Any, byte: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            planes, first, word, numbers, byte = arguments
            width = ir.Constant(_WORD, WORDS)
            spelled = ir.Constant(_BYTES_OF_WORD, [0] * 64)
            for bit in range(count):
                plane = builder.add(first, ir.Constant(_WORD, bit))
                place = builder.add(builder.mul(plane, width), word)
                rows = builder.load(_address(context, builder, signature.args[0], planes, place, _WORD))
                chosen = builder.select(
                    builder.bitcast(rows, ir.VectorType(ir.IntType(1), 64)),
                    ir.Constant(_BYTES_OF_WORD, [1 << bit] * 64),
                    ir.Constant(_BYTES_OF_WORD, [0] * 64),
                )
                spelled = builder.or_(spelled, chosen)
            place = builder.add(builder.mul(byte, width), word)
            target = _address(context, builder, signature.args[3], numbers, place, _BYTES_OF_WORD)
            builder.store(spelled, target, align=1)
            return context.get_dummy_value()

        index = types.int64
        return types.void(planes, index, index, numbers, index), generate

    return on_planes


# Five planes number the 31 leaves that a tree of LightGBM has by default, so they have a form of their own.
_FEW_PLANES = 5
_transpose_few = _on_planes(_FEW_PLANES)
_transpose_byte = _on_planes(8)


@njit(nogil=True)
def _bytes(bits: int) -> int:
    return max(1, (bits + 7) // 8)


@njit(nogil=True)
def _transpose(planes: np.ndarray, count: int, numbers: np.ndarray, first: int) -> None:
    """The number that each row's bits in `count` planes spell: its bytes, lowest first, from `first` on.

    `numbers` is uint8 (rows, BLOCK). The planes above, up to a whole byte, must be empty.
    """
    if count <= _FEW_PLANES:
        for word in range(WORDS):
            _transpose_few(planes, 0, word, numbers, first)
        return
    for byte in range(_bytes(count)):
        for word in range(WORDS):
            _transpose_byte(planes, 8 * byte, word, numbers, first + byte)


@njit(nogil=True)
def _put(masks: np.ndarray, place: np.ndarray, first: int) -> None:
    """Set each row's bit in the mask `first + place[row]`."""
    for row in range(BLOCK):
        masks[first + place[row], row >> 6] |= np.uint64(1) << np.uint64(row & 63)


# === The Arrow columns ======================================================================================


@intrinsic
def _pointer(_typing: Any, address: Any) -> Any:
    """An address as the pointer that `carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.intp), generate


@njit(nogil=True)
def _word(address: int, index: int) -> int:
    return carray(_pointer(address), index + 1, np.int64)[index]


@njit(nogil=True)
def _load(column: int, storage: int, offset: int, first: int, count: int, values: np.ndarray) -> None:
    """Rows of the Arrow array at an address as float64; the values of nulls may be anything."""
    start = offset + _word(column, _OFFSET) + first
    data = _pointer(_word(_word(column, _BUFFERS), 1))
    if storage == FLOAT64:
        values[:count] = carray(data, start + count, np.float64)[start:]
    elif storage == FLOAT32:
        values[:count] = carray(data, start + count, np.float32)[start:]
    elif storage == INT32:
        values[:count] = carray(data, start + count, np.int32)[start:]
    else:
        values[:count] = carray(data, start + count, np.int64)[start:]


@njit(nogil=True)
def _mark_nulls(array: int, offset: int, incomplete: np.ndarray) -> bool:
    """Mark the rows in which an Arrow array is null; whether there were any."""
    validity = _word(_word(array, _BUFFERS), 0)
    if validity == 0 or _word(array, _NULL_COUNT) == 0:
        return False
    start = offset + _word(array, _OFFSET)
    bits = carray(_pointer(validity), (start + len(incomplete) + 7) // 8, np.uint8)
    found = False
    for row in range(len(incomplete)):
        at = start + row
        if not bits[at >> 3] >> (at & 7) & 1:
            incomplete[row] = True
            found = True
    return found


@njit(nogil=True, cache=True)
def find_incomplete(array: int, required: np.ndarray, incomplete: np.ndarray) -> bool:
    """Mark the rows that are null, or null in a required child; whether there were any."""
    found = _mark_nulls(array, 0, incomplete)
    for child in required:
        column = _word(_word(array, _CHILDREN), child)
        found |= _mark_nulls(column, _word(array, _OFFSET), incomplete)
    return found


# === Tests ==================================================================================================


@njit(nogil=True)
def _find(
    values: np.ndarray, form: int, thresholds: np.ndarray, size: int, cuts: int, place: np.ndarray
) -> None:
    """How many of a feature's thresholds lie below each value."""
    for row in range(BLOCK):
        value = values[row]
        if abs(value) <= ZERO_THRESHOLD or (form == NAN_IS_ZERO and math.isnan(value)):
            value = 0.0
        values[row] = value
        place[row] = 0
    # Binary search without a jump, all rows in step.
    step = size >> 1
    while step:
        for row in range(BLOCK):
            place[row] += step if thresholds[place[row] + step - 1] < values[row] else 0
        step >>= 1
    if form != NAN_IS_ZERO:
        lowest = form in (NAN_LEFT, NAN_AND_ZERO_LEFT)
        zero_too = form in (NAN_AND_ZERO_LEFT, NAN_AND_ZERO_RIGHT)
        for row in range(BLOCK):
            if math.isnan(values[row]) or (zero_too and values[row] == 0.0):
                place[row] = 0 if lowest else cuts


@njit(nogil=True)
def _find_whole(
    column: int,
    storage: int,
    offset: int,
    first: int,
    count: int,
    lowest: int,
    found: np.ndarray,
    place: np.ndarray,
) -> None:
    """The same for a column of whole numbers, from what was found for `lowest` and the numbers after it."""
    start = offset + _word(column, _OFFSET) + first
    data = _pointer(_word(_word(column, _BUFFERS), 1))
    highest = lowest + len(found) - 1
    if storage == INT32:
        short = carray(data, start + count, np.int32)
        for row in range(count):
            place[row] = found[min(max(np.int64(short[start + row]), lowest), highest) - lowest]
    else:
        long = carray(data, start + count, np.int64)
        for row in range(count):
            place[row] = found[min(max(long[start + row], lowest), highest) - lowest]
    place[count:] = 0


@njit(nogil=True)
def _fill_masks(
    plan: Plan, columns: Columns, array: int, first: int, count: int, masks: np.ndarray, slots: np.ndarray
) -> None:
    """Which rows go right at each test: the masks of `count` rows from row `first` on."""
    children, offset = _word(array, _CHILDREN), _word(array, _OFFSET)
    values = np.zeros(BLOCK, np.float64)
    place = np.zeros(BLOCK, np.int64)
    masks[:] = 0
    for number in range(len(plan.numbers)):
        feature, form, begin, size, cuts, mask, first_whole, wholes = plan.numbers[number]
        column, storage = _word(children, columns.children[feature]), columns.storage[feature]
        if wholes and storage in (INT32, INT64):
            found = plan.whole_numbers[first_whole : first_whole + wholes]
            _find_whole(column, storage, offset, first, count, plan.lowest_whole[number], found, place)
        else:
            _load(column, storage, offset, first, count, values)
            _find(values, form, plan.thresholds[begin : begin + size - 1], size, cuts, place)
        # What lies above k thresholds goes right at the first k: set at the k-th, then at all before it.
        _put(masks, place, mask)
        for cut in range(mask + cuts - 1, mask, -1):
            _or(masks, cut, masks, cut, masks, cut + 1)
    for number in range(len(plan.categoricals)):
        feature, size, begin, used, first_set, sets, mask = plan.categoricals[number]
        column, storage = _word(children, columns.children[feature]), columns.storage[feature]
        _load(column, storage, offset, first, count, values)
        for row in range(BLOCK):
            value = values[row]
            # The fraction is cut off, so what is above -1 is category 0; NaN is in no range.
            place[row] = plan.category_slots[begin + np.int64(value)] if -1.0 < value < size else 0
        slots[:used] = 0
        _put(slots, place, 0)
        for each in range(sets):
            masks[mask + each] = ~np.uint64(0)
            for at in range(plan.set_begins[first_set + each], plan.set_begins[first_set + each + 1]):
                _xor(masks, mask + each, masks, mask + each, slots, np.int64(plan.set_slots[at]))


# === Scores =================================================================================================


@njit(nogil=True)
def _add_leaves(
    sums: np.ndarray, numbers: np.ndarray, leaf_values: np.ndarray, tree_leaves: np.ndarray, tree: int
) -> None:
    """Add the leaf values of the four trees from `tree` on to all rows' sums, in the order of the trees.

    Row k of `numbers`, uint8 (rows, BLOCK), holds the numbers of the leaves of the k-th of them.
    """
    first = leaf_values[tree_leaves[tree] :]
    second = leaf_values[tree_leaves[tree + 1] :]
    third = leaf_values[tree_leaves[tree + 2] :]
    fourth = leaf_values[tree_leaves[tree + 3] :]
    for row in range(BLOCK):
        total = sums[row] + first[numbers[0, row]]
        total += second[numbers[1, row]]
        total += third[numbers[2, row]]
        sums[row] = total + fourth[numbers[3, row]]


# So many leaf values fit into four registers of AVX-512, where they are looked up without a load.
FEW_LEAVES = 1 << _FEW_PLANES
_VALUE = ir.DoubleType()
_VALUES = ir.VectorType(_VALUE, 8)
_PLACES = ir.VectorType(_WORD, 8)


def _looked_up(builder: Any, table: list[Any], numbers: Any) -> Any:
    """Eight rows' values in a table of FEW_LEAVES (four vectors), by their numbers (a vector)."""
    permute = builder.module.declare_intrinsic(
        "llvm.x86.avx512.vpermi2var.pd.512", (), ir.FunctionType(_VALUES, [_VALUES, _PLACES, _VALUES])
    )
    low, high = (builder.call(permute, [table[half], numbers, table[half + 1]]) for half in (0, 2))
    is_low = builder.icmp_unsigned("<", numbers, ir.Constant(_PLACES, [FEW_LEAVES // 2] * 8))
    return builder.select(is_low, low, high)


@intrinsic
def _add_few_leaves(
    _typing: Any, sums: Any, numbers: Any, leaf_values: Any, tree_leaves: Any, tree: Any
) -> Any:
    """As `_add_leaves`, for trees whose values take FEW_LEAVES places each, on a machine with AVX-512."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, numbers, leaf_values, tree_leaves, tree = arguments
        tables = []
        for each in range(4):
            place = builder.add(tree, ir.Constant(_WORD, each))
            begin = builder.load(_address(context, builder, signature.args[3], tree_leaves, place, _WORD))
            table = _address(context, builder, signature.args[2], leaf_values, begin, _VALUE)
            table = builder.bitcast(table, _VALUES.as_pointer())
            parts = (builder.gep(table, [ir.Constant(_WORD, part)]) for part in range(FEW_LEAVES // 8))
            tables.append([builder.load(part, align=8) for part in parts])
        eight_bytes = ir.VectorType(ir.IntType(8), 8)
        with cgutils.for_range(builder, ir.Constant(_WORD, BLOCK // 8)) as rows:
            place = _address(context, builder, signature.args[0], sums, rows.index, _VALUES)
            total = builder.load(place, align=8)
            for each, table in enumerate(tables):
                at = builder.add(rows.index, ir.Constant(_WORD, each * BLOCK // 8))
                number = _address(context, builder, signature.args[1], numbers, at, eight_bytes)
                number = builder.zext(builder.load(number, align=1), _PLACES)
                total = builder.fadd(total, _looked_up(builder, table, number))
            builder.store(total, place, align=8)
        return context.get_dummy_value()

    return types.void(sums, numbers, leaf_values, tree_leaves, types.int64), generate


if not binding.get_host_cpu_features().get("avx512f"):
    _add_few_leaves = _add_leaves


@njit(nogil=True)
def _find_leaves(
    plan: Plan,
    tree: int,
    masks: np.ndarray,
    regions: np.ndarray,
    planes: np.ndarray,
    numbers: np.ndarray,
    first: int,
) -> None:
    """The number of each row's leaf: its bytes, lowest first, from row `first` of `numbers` on."""
    begin = plan.tree_nodes[tree]
    regions[0] = ~np.uint64(0)
    planes[: 8 * _bytes(plan.tree_planes[tree])] = 0
    for node in range(plan.tree_nodes[tree + 1] - begin):
        at = begin + node
        _move(
            masks,
            np.int64(plan.node_mask[at]),
            regions,
            np.int64(plan.node_region[at]),
            node + 1,
            planes,
            np.int64(plan.node_plane[at]),
        )
        # Most numbers differ in one bit.
        for toggle in range(plan.node_toggles[at], plan.node_toggles[at + 1]):
            plane = np.int64(plan.toggle_plane[toggle])
            _xor(planes, plane, planes, plane, regions, node + 1)
    _transpose(planes, plan.tree_planes[tree], numbers, first)


@njit(nogil=True, cache=True)
def fill_outputs(plan: Plan, columns: Columns, array: int, begin: int, end: int, outputs: np.ndarray) -> None:
    """Fill rows `begin` to `end` of `outputs`, float64 (models, rows), from a struct array's address."""
    masks = np.empty((plan.masks, WORDS), np.uint64)
    slots = np.empty((plan.slots, WORDS), np.uint64)
    regions = np.empty((plan.regions, WORDS), np.uint64)
    planes = np.empty((8 * BYTES, WORDS), np.uint64)
    numbers = np.zeros((BYTES, BLOCK), np.uint8)
    sums = np.empty(BLOCK, np.float64)
    for first in range(begin, end, BLOCK):
        count = min(BLOCK, end - first)
        _fill_masks(plan, columns, array, first, count, masks, slots)
        for model in range(outputs.shape[0]):
            sums[:] = 0.0
            tree, beyond = plan.model_trees[model], plan.model_trees[model + 1]
            while tree < beyond:
                # Four trees at a time, in their order: each sum is then loaded and stored once for the four.
                if beyond - tree < 4 or plan.tree_planes[tree : tree + 4].max() > 8:
                    _find_leaves(plan, tree, masks, regions, planes, numbers, 0)
                    values = plan.leaf_values[plan.tree_leaves[tree] :]
                    for row in range(BLOCK):
                        sums[row] += values[_number(numbers, row, plan.tree_planes[tree])]
                    tree += 1
                    continue
                for each in range(4):
                    _find_leaves(plan, tree + each, masks, regions, planes, numbers, each)
                if plan.tree_planes[tree : tree + 4].max() <= _FEW_PLANES:
                    _add_few_leaves(sums, numbers, plan.leaf_values, plan.tree_leaves, tree)
                else:
                    _add_leaves(sums, numbers, plan.leaf_values, plan.tree_leaves, tree)
                tree += 4
            factor = plan.sigmoid[model]
            for row in range(count):
                total = sums[row]
                # The C library's exp, as in LightGBM; NumPy's may differ in the last bit.
                outputs[model, first + row] = (
                    total if math.isnan(factor) else 1.0 / (1.0 + math.exp(-factor * total))
                )


@njit(nogil=True)
def _number(numbers: np.ndarray, row: int, bits: int) -> int:
    number = np.uint64(0)
    for byte in range(_bytes(bits)):
        number |= np.uint64(numbers[byte, row]) << np.uint64(8 * byte)
    return number


# === Reasons ================================================================================================

# Up to so many features a leaf's table holds contributions; beyond it holds weights (scoring/reasons.py).
TABLE_FEATURES = 8
# The widest pattern.
PATTERN_BITS = 8 * BYTES


@njit(nogil=True)
def _weight(shares: np.ndarray, pattern: int, without: int, powers: np.ndarray) -> float:
    """W of the features in the pattern but `without`; `powers` is scratch of len(shares) + 1."""
    count = len(shares)
    # Coefficients of the product of (z_j + y): that of y^s sums over all S of s features.
    powers[0] = 1.0
    degree = 0
    for feature in range(count):
        if feature != without and pattern >> np.uint64(feature) & np.uint64(1):
            powers[degree + 1] = powers[degree]
            for power in range(degree, 0, -1):
                powers[power] = powers[power] * shares[feature] + powers[power - 1]
            powers[0] *= shares[feature]
            degree += 1
    # s! (d - 1 - s)! / d!, from s = 0 on; all d features together have no feature left to credit.
    total = 0.0
    factor = 1.0 / count
    for power in range(min(degree, count - 1) + 1):
        total += powers[power] * factor
        if power < count - 1:
            factor *= (power + 1) / (count - 1 - power)
    return total


@njit(nogil=True)
def _contribute(
    shares: np.ndarray, value: float, pattern: int, powers: np.ndarray, effects: np.ndarray
) -> None:
    """The contributions of one leaf to each of its features, for one pattern."""
    missed = value
    for feature in range(len(shares)):
        if not pattern >> np.uint64(feature) & np.uint64(1):
            missed *= shares[feature]
    outside = -missed * _weight(shares, pattern, -1, powers)
    for feature in range(len(shares)):
        if pattern >> np.uint64(feature) & np.uint64(1):
            effects[feature] = missed * (1.0 - shares[feature]) * _weight(shares, pattern, feature, powers)
        else:
            effects[feature] = outside


@njit(nogil=True)
def _look_up(
    shares: np.ndarray, value: float, pattern: int, weights: np.ndarray, effects: np.ndarray
) -> None:
    """As _contribute, with W of every pattern known."""
    place = np.int64(pattern & np.uint64(len(weights) - 1))
    missed = value
    for feature in range(len(shares)):
        missed *= 1.0 if place >> feature & 1 else shares[feature]
    outside = -missed * weights[place]
    for feature in range(len(shares)):
        inside = missed * (1.0 - shares[feature]) * weights[place & ~(1 << feature)]
        effects[feature] = inside if place >> feature & 1 else outside


@njit(nogil=True, cache=True)
def fill_tables(paths: Paths) -> None:
    """Compute the tables of all leaves that have one."""
    powers = np.empty(PATTERN_BITS + 1)
    effects = np.empty(PATTERN_BITS)
    for leaf in range(len(paths.leaf_value)):
        begin = paths.leaf_table[leaf]
        if begin < 0:
            continue
        shares = paths.shares[paths.leaf_features[leaf] : paths.leaf_features[leaf + 1]]
        patterns = 1 << len(shares)
        for pattern in range(patterns):
            if len(shares) > TABLE_FEATURES:
                paths.tables[begin + pattern] = _weight(shares, np.uint64(pattern), -1, powers)
                continue
            _contribute(shares, paths.leaf_value[leaf], np.uint64(pattern), powers, effects)
            for feature in range(len(shares)):
                paths.tables[begin + feature * patterns + pattern] = effects[feature]


@njit(nogil=True)
def _find_patterns(
    paths: Paths, leaf: int, count: int, masks: np.ndarray, planes: np.ndarray, numbers: np.ndarray
) -> None:
    """For each row of the block which of the `count` features of the leaf's path hold, one bit each."""
    planes[count : 8 * _bytes(count)] = 0
    planes[:count] = ~np.uint64(0)
    for condition in range(paths.leaf_conditions[leaf], paths.leaf_conditions[leaf + 1]):
        mask, right, bit = paths.conditions[condition]
        if right:
            _and(planes, bit, planes, bit, masks, mask)
        else:
            _and_not(planes, bit, planes, bit, masks, mask)
    _transpose(planes, count, numbers, 0)


@njit(nogil=True, cache=True)
def fill_contributions(
    plan: Plan,
    paths: Paths,
    columns: Columns,
    array: int,
    begin: int,
    end: int,
    contributions: np.ndarray,
) -> None:
    """Fill rows `begin` to `end` of `contributions`, float64 (features, rows), as `fill_outputs` does."""
    masks = np.empty((plan.masks, WORDS), np.uint64)
    slots = np.empty((plan.slots, WORDS), np.uint64)
    planes = np.empty((8 * BYTES, WORDS), np.uint64)
    numbers = np.zeros((BYTES, BLOCK), np.uint8)
    sums = np.empty((contributions.shape[0], BLOCK))
    powers = np.empty(PATTERN_BITS + 1)
    effects = np.empty(PATTERN_BITS)
    for first in range(begin, end, BLOCK):
        count = min(BLOCK, end - first)
        _fill_masks(plan, columns, array, first, count, masks, slots)
        sums[:] = 0.0
        for leaf in range(len(paths.leaf_value)):
            features = paths.features[paths.leaf_features[leaf] : paths.leaf_features[leaf + 1]]
            _find_patterns(paths, leaf, len(features), masks, planes, numbers)
            table_begin = paths.leaf_table[leaf]
            if table_begin >= 0 and len(features) <= TABLE_FEATURES:
                patterns = 1 << len(features)
                lowest = numbers[0]
                for number in range(len(features)):
                    place = table_begin + number * patterns
                    table = paths.tables[place : place + patterns]
                    total = sums[features[number]]
                    for row in range(BLOCK):
                        total[row] += table[lowest[row]]
                continue
            shares = paths.shares[paths.leaf_features[leaf] : paths.leaf_features[leaf + 1]]
            weights = powers[:0]
            if table_begin >= 0:
                weights = paths.tables[table_begin : table_begin + (1 << len(features))]
            for row in range(count):
                pattern = _number(numbers, row, len(features))
                if table_begin >= 0:
                    _look_up(shares, paths.leaf_value[leaf], pattern, weights, effects)
                else:
                    _contribute(shares, paths.leaf_value[leaf], pattern, powers, effects)
                for number in range(len(features)):
                    sums[features[number], row] += effects[number]
        for feature in range(contributions.shape[0]):
            for row in range(count):
                contributions[feature, first + row] = sums[feature, row]
