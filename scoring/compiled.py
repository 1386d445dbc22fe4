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
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import carray, njit, types
from numba.core import cgutils, config
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

    A row of `numbers` is a numerical feature in one form: (feature, form, first of its `thresholds`, number
    of thresholds, most groups of GROUP that a bucket holds, first of its masks, first of its
    `whole_numbers`, how many). Its thresholds are sorted and followed by enough infinities to load whole
    groups from any. Value x lies in bucket `(x - lowest) * scale`, cut off to a whole number from 0 to
    BUCKETS - 1; `buckets[row of numbers]` is (lowest, scale), `bucket_begins[row of numbers]` says for each
    bucket how many thresholds lie in those before. `whole_numbers` are what the search would find for the
    whole numbers from `lowest_whole[row of numbers]` on; before and after them nothing changes. There are
    none where the thresholds lie far apart.

    A row of `categoricals` is a categorical feature: (feature, number of categories, first of its
    `category_slots`, number of slots, first of its sets, number of sets, first of its masks). A category's
    slot is 0 where no set holds it. Set k holds the slots `set_slots[set_begins[k]]` to `[k + 1]`.

    Node n has the mask `node_mask[n]` and splits the region `node_region[n]` of its tree. Nodes lie in the
    order in which they are taken, those of tree t from `tree_nodes[t]` to `tree_nodes[t + 1]`; the k-th node
    of a tree (from 0) makes its region k + 1. `tree_planes[t]` is the number of bits that number the regions.
    Leaf values, by region, lie from `tree_leaves[t]` on, FEW_LEAVES of them or a multiple; the trees of model
    m from `model_trees[m]` on. `sigmoid` is NaN for a model whose output is the sum itself. `masks`, `slots`
    and `regions` are the sizes of the scratch that a call needs.
    """

    numbers: np.ndarray
    thresholds: np.ndarray
    buckets: np.ndarray
    bucket_begins: np.ndarray
    whole_numbers: np.ndarray
    lowest_whole: np.ndarray
    categoricals: np.ndarray
    category_slots: np.ndarray
    set_begins: np.ndarray
    set_slots: np.ndarray
    node_mask: np.ndarray
    node_region: np.ndarray
    tree_nodes: np.ndarray
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


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any, element: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(builder.bitcast(data, element.as_pointer()), [index])


def _vector_address(context: Any, builder: Any, kind: Any, array: Any, first: Any, at: int) -> Any:
    """The address of vector `at` after the mask `first` of an array of 64-bit words or of bytes."""
    return _address(context, builder, kind, array, builder.add(first, ir.Constant(_WORD, at)), _MASK)


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
def _split(
    _typing: Any,
    masks: Any,
    node_mask: Any,
    node_region: Any,
    begins: Any,
    start: Any,
    end: Any,
    regions: Any,
    firsts: Any,
) -> Any:
    """Take nodes `start` to `end` of trees: each moves the rows of its region that go right to a new one.

    Two tuples say where the nodes and the regions of each tree begin. The trees take turns, node by node: so
    the processor has a split to do while it waits for the one before, whose outcome the next one often needs.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        masks, node_mask, node_region, begins, start, end, regions, firsts = arguments
        kinds = signature.args

        def number(at: int, array: Any, index: Any) -> Any:
            place = _address(context, builder, kinds[at], array, index, ir.IntType(32))
            return builder.zext(builder.load(place), _WORD)

        trees = list(
            zip(cgutils.unpack_tuple(builder, begins), cgutils.unpack_tuple(builder, firsts), strict=True)
        )
        with cgutils.for_range_slice(builder, start, end, ir.Constant(_WORD, 1), inc=True) as (at, _):
            for begin, first in trees:
                node = builder.add(begin, at)
                region = builder.add(first, number(2, node_region, node))
                split = _address(context, builder, kinds[6], regions, region, _MASK)
                test = _address(context, builder, kinds[0], masks, number(1, node_mask, node), _MASK)
                rows = builder.load(split, align=8)
                moved = builder.and_(rows, builder.load(test, align=8))
                builder.store(builder.xor(rows, moved), split, align=8)
                new = _vector_address(context, builder, kinds[6], regions, builder.add(first, at), 1)
                builder.store(moved, new, align=8)
        return context.get_dummy_value()

    index = types.int64
    return types.void(masks, node_mask, node_region, begins, index, index, regions, firsts), generate


# === Bits to bytes and back =================================================================================

# The bits of a byte that stay in place when those 1, 2 or 4 places further up change places with another's.
_STAY = {1: 0x5555555555555555, 2: 0x3333333333333333, 4: 0x0F0F0F0F0F0F0F0F}


def _transposed(builder: Any, vectors: list[Any]) -> list[Any]:
    """Eight vectors of bytes whose bits are transposed: bit i of a byte of vector k ↔ bit k of that of i.

    So eight planes become one byte a row, and such bytes become planes. Vectors that are missing at the end
    are empty. Vectors swap half of their bits with those 1, 2 and 4 further on; no bit leaves its byte, so
    shifts and selections do it, on any machine. Row r is bit r // 64 of byte r % 64 of a mask.
    """
    spread: list[Any] = [*vectors, *[None] * (8 - len(vectors))]

    def constant(word: int) -> Any:
        return ir.Constant(_MASK, [word] * WORDS)

    for distance, stay in _STAY.items():
        shift, here, there = constant(distance), constant(stay), constant(~stay & 2**64 - 1)
        for at in range(8):
            low, high = spread[at], spread[at ^ distance]
            if at & distance or low is None:
                continue
            lower, upper = builder.and_(low, here), builder.and_(builder.lshr(low, shift), here)
            if high is not None:
                lower = builder.or_(lower, builder.and_(builder.shl(high, shift), there))
                upper = builder.or_(upper, builder.and_(high, there))
            spread[at], spread[at | distance] = lower, upper
    return spread


def _on_planes(count: int) -> Any:
    """A compiled function (planes, first, numbers, byte): `count` planes, from `first` on, as a byte a row.

    The bytes are row `byte` of `numbers`, uint8 (rows, BLOCK).
    """

    @intrinsic
    def on_planes(_typing: Any, planes: Any, first: Any, numbers: Any, byte: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            planes, first, numbers, byte = arguments
            kinds = signature.args
            loaded = [
                builder.load(_vector_address(context, builder, kinds[0], planes, first, at), align=8)
                for at in range(count)
            ]
            target = builder.mul(byte, ir.Constant(_WORD, 8))
            for at, rows in enumerate(_transposed(builder, loaded)):
                builder.store(rows, _vector_address(context, builder, kinds[2], numbers, target, at), align=8)
            return context.get_dummy_value()

        return types.void(planes, types.int64, numbers, types.int64), generate

    return on_planes


# Five bits number the 31 leaves that a tree of LightGBM has by default.
_FEW_PLANES = 5
FEW_LEAVES = 1 << _FEW_PLANES
_transpose_few = _on_planes(_FEW_PLANES)
_transpose_byte = _on_planes(8)


def _planes_of_regions(context: Any, builder: Any, kind: Any, regions: Any, first: Any) -> list[Any]:
    """The planes that number FEW_LEAVES regions, from `first` on, from 0.

    A row is in one region at most, so a plane is the `xor` of the regions whose numbers have its bit.
    """
    planes: list[Any] = [None] * _FEW_PLANES
    for number in range(1, FEW_LEAVES):
        rows = builder.load(_vector_address(context, builder, kind, regions, first, number), align=8)
        for plane in range(_FEW_PLANES):
            if number >> plane & 1:
                known = planes[plane]
                planes[plane] = rows if known is None else builder.xor(known, rows)
    return planes


@intrinsic
def _number_few_regions(_typing: Any, regions: Any, first: Any, numbers: Any, byte: Any) -> Any:
    """The number of each row's region, of FEW_LEAVES from `first` on.

    The numbers are row `byte` of `numbers`, uint8 (rows, BLOCK).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        regions, first, numbers, byte = arguments
        planes = _planes_of_regions(context, builder, signature.args[0], regions, first)
        target = builder.mul(byte, ir.Constant(_WORD, 8))
        for at, rows in enumerate(_transposed(builder, planes)):
            place = _vector_address(context, builder, signature.args[2], numbers, target, at)
            builder.store(rows, place, align=8)
        return context.get_dummy_value()

    return types.void(regions, types.int64, numbers, types.int64), generate


@intrinsic
def _number_regions(_typing: Any, regions: Any, first: Any, planes: Any, lowest: Any) -> Any:
    """Number FEW_LEAVES regions, from `first` on, from 0: each row's bits, as planes from `lowest` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        regions, first, planes, lowest = arguments
        spelled = _planes_of_regions(context, builder, signature.args[0], regions, first)
        for at, rows in enumerate(spelled):
            place = _vector_address(context, builder, signature.args[2], planes, lowest, at)
            builder.store(rows, place, align=8)
        return context.get_dummy_value()

    return types.void(regions, types.int64, planes, types.int64), generate


@njit(nogil=True)
def _bytes(bits: int) -> int:
    return max(1, (bits + 7) // 8)


@njit(nogil=True)
def _transpose(planes: np.ndarray, lowest: int, count: int, numbers: np.ndarray, first: int) -> None:
    """The number that each row's bits in `count` planes spell: its bytes, lowest first, from `first` on.

    `numbers` is uint8 (rows, BLOCK). The planes above, up to a whole byte, must be empty.
    """
    if count <= _FEW_PLANES:
        _transpose_few(planes, lowest, numbers, first)
        return
    for byte in range(_bytes(count)):
        _transpose_byte(planes, lowest + 8 * byte, numbers, first + byte)


@njit(nogil=True)
def _aligned(words: int) -> np.ndarray:
    """Scratch of 64-bit words that begins with a line of the cache.

    A mask that lies across two lines takes twice as long to load and to store.
    """
    scratch = np.empty(words + 7, np.uint64)
    skipped = (-scratch.ctypes.data & 63) >> 3
    return scratch[skipped : skipped + words]


@njit(nogil=True)
def _scratch(masks: int) -> np.ndarray:
    """Scratch for so many masks, uint64 (masks, WORDS)."""
    return _aligned(masks * WORDS).reshape(masks, WORDS)


@njit(nogil=True)
def _put(masks: np.ndarray, place: np.ndarray, first: int) -> None:
    """Set each row's bit in the mask `first + place[row]`."""
    for row in range(BLOCK):
        bit = 8 * (row & 63) + (row >> 6)
        masks[first + place[row], bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)


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


# So many thresholds are compared with a value at once: a register of AVX-512, and LLVM makes the best of it
# elsewhere.
GROUP = 8
_GROUP = ir.VectorType(ir.DoubleType(), GROUP)
# Numba lets signed numbers count from an array's end, and asks for each whether it is below 0.
_UNSIGNED = np.uint64
# So many buckets has a feature: with fewer, some hold more than a group of thresholds.
BUCKETS = 1024


@intrinsic
def _below(_typing: Any, thresholds: Any, first: Any, value: Any) -> Any:
    """How many of the GROUP thresholds from `first` on lie below the value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        thresholds, first, value = arguments
        place = _address(context, builder, signature.args[0], thresholds, first, ir.DoubleType())
        group = builder.load(builder.bitcast(place, _GROUP.as_pointer()), align=8)
        single = builder.insert_element(ir.Constant(_GROUP, ir.Undefined), value, ir.Constant(_WORD, 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), GROUP), [0] * GROUP)
        values = builder.shuffle_vector(single, ir.Constant(_GROUP, ir.Undefined), everywhere)
        found = builder.bitcast(builder.fcmp_ordered("<", group, values), ir.IntType(GROUP))
        return builder.zext(builder.ctpop(found), _WORD)

    return types.int64(thresholds, types.int64, types.float64), generate


@njit(nogil=True)
def _find(
    values: np.ndarray,
    form: int,
    thresholds: np.ndarray,
    first: int,
    cuts: int,
    groups: int,
    buckets: np.ndarray,
    begins: np.ndarray,
    place: np.ndarray,
) -> None:
    """How many of a feature's thresholds lie below each value."""
    lowest, scale = buckets
    for row in range(BLOCK):
        value = values[row]
        if abs(value) <= ZERO_THRESHOLD or (form == NAN_IS_ZERO and math.isnan(value)):
            value = 0.0
        values[row] = value
        # Of two values the higher is never in the lower bucket, however rounded. NaN may be in any.
        bucket = (value - lowest) * scale
        bucket = bucket if bucket > 0.0 else 0.0
        place[row] = np.int64(bucket if bucket < BUCKETS - 1 else BUCKETS - 1)
    for row in range(BLOCK):
        # The thresholds of the buckets before lie below, those of the bucket may. No jump depends on a value.
        found = np.int64(begins[_UNSIGNED(place[row])])
        begin = first + found
        found += _below(thresholds, begin, values[row])
        for group in range(1, groups):
            found += _below(thresholds, begin + GROUP * group, values[row])
        place[row] = found
    if form != NAN_IS_ZERO:
        lower = form in (NAN_LEFT, NAN_AND_ZERO_LEFT)
        zero_too = form in (NAN_AND_ZERO_LEFT, NAN_AND_ZERO_RIGHT)
        for row in range(BLOCK):
            if math.isnan(values[row]) or (zero_too and values[row] == 0.0):
                place[row] = 0 if lower else cuts


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
        short = carray(data, start + count, np.int32)[start:]
        for row in range(count):
            place[row] = min(max(np.int64(short[row]), lowest), highest) - lowest
    else:
        long = carray(data, start + count, np.int64)[start:]
        for row in range(count):
            place[row] = min(max(long[row], lowest), highest) - lowest
    for row in range(count):
        place[row] = found[_UNSIGNED(place[row])]
    place[count:] = 0


@intrinsic
def _outside(_typing: Any, masks: Any, into: Any, slots: Any, set_slots: Any, begin: Any, end: Any) -> Any:
    """Mask `into`: the rows in none of the slots, masks too, that are numbered from `begin` to `end`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        masks, into, slots, set_slots, begin, end = arguments
        kinds = signature.args
        # A row is in one slot. The rows so far are kept in a register, not in the mask, where each slot would
        # have to wait for the one before to be stored.
        rows = cgutils.alloca_once_value(builder, ir.Constant(_MASK, [2**64 - 1] * WORDS))
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(_WORD, 1), inc=True) as (at, _):
            slot = builder.load(_address(context, builder, kinds[3], set_slots, at, ir.IntType(32)))
            place = _address(context, builder, kinds[2], slots, builder.zext(slot, _WORD), _MASK)
            builder.store(builder.xor(builder.load(rows), builder.load(place, align=8)), rows)
        target = _address(context, builder, kinds[0], masks, into, _MASK)
        builder.store(builder.load(rows), target, align=8)
        return context.get_dummy_value()

    index = types.int64
    return types.void(masks, index, slots, set_slots, index, index), generate


# As many thresholds as a byte can count.
_BYTE_CUTS = 255


@njit(nogil=True)
def _compare(counts: np.ndarray, cuts: int, masks: np.ndarray, first: int, planes: np.ndarray) -> None:
    """Mask `first + cut`, for each cut: the rows whose count, uint8 (1, BLOCK), is above the cut.

    `cuts` is at most _BYTE_CUTS, and no count is above it; `planes` is scratch for eight.
    """
    # The masks of all cuts of one bit more follow from those so far: a count is above the cut with that bit
    # where it has the bit and is above without, and above the cut without it where it has it, or is above.
    _transpose_byte(counts, 0, planes, 0)
    masks[first] = 0
    known, bit = 1, 0
    while known <= cuts:
        for cut in range(min(known, cuts - known)):
            _and(masks, first + known + cut, planes, bit, masks, first + cut)
        for cut in range(known):
            _or(masks, first + cut, planes, bit, masks, first + cut)
        known, bit = 2 * known, bit + 1


@njit(nogil=True)
def _fill_masks(
    plan: Plan, columns: Columns, array: int, first: int, count: int, masks: np.ndarray, slots: np.ndarray
) -> None:
    """Which rows go right at each test: the masks of `count` rows from row `first` on."""
    children, offset = _word(array, _CHILDREN), _word(array, _OFFSET)
    values = np.zeros(BLOCK)
    place = np.zeros(BLOCK, np.int64)
    counts = _aligned(BLOCK // 8).view(np.uint8)
    planes = _aligned(BLOCK // 8)
    for number in range(len(plan.numbers)):
        feature, form, begin, cuts, groups, mask, first_whole, wholes = plan.numbers[number]
        column, storage = _word(children, columns.children[feature]), columns.storage[feature]
        if wholes and storage in (INT32, INT64):
            found = plan.whole_numbers[first_whole : first_whole + wholes]
            _find_whole(column, storage, offset, first, count, plan.lowest_whole[number], found, place)
        else:
            _load(column, storage, offset, first, count, values)
            buckets, begins = plan.buckets[number], plan.bucket_begins[number]
            _find(values, form, plan.thresholds, begin, cuts, groups, buckets, begins, place)
        # What lies above k thresholds goes right at the first k.
        for cut in range(0, cuts, _BYTE_CUTS):
            for row in range(BLOCK):
                counts[row] = min(max(place[row] - cut, 0), _BYTE_CUTS)
            _compare(counts, min(cuts - cut, _BYTE_CUTS), masks, mask + cut, planes)
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
            begin, end = plan.set_begins[first_set + each], plan.set_begins[first_set + each + 1]
            _outside(masks, mask + each, slots, plan.set_slots, begin, end)


# === Scores =================================================================================================


_HALVES = ir.VectorType(ir.IntType(32), 16)
_VALUES = ir.VectorType(ir.DoubleType(), 8)
# Sum k of a block is that of row ORDER[k]: the order in which _add_few_leaves gets values, where it is used.
if config.CPU_FEATURES is None:
    _HAS_PERMUTATION = binding.get_host_cpu_features().get("avx512f", False)
else:  # Numba was told for which processor to compile
    _HAS_PERMUTATION = "+avx512f" in config.CPU_FEATURES
ORDER = np.arange(BLOCK, dtype=np.int64)
if _HAS_PERMUTATION:
    # Rows are (vector of 64, two pairs of four, pair, byte of 4) bytes; sums lie by byte, then pair.
    ORDER = ORDER.reshape(-1, 4, 2, 2, 4).transpose(0, 4, 2, 1, 3).flatten()


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
    for at in range(BLOCK):
        row = ORDER[at]
        total = sums[at] + first[numbers[0, row]]
        total += second[numbers[1, row]]
        total += third[numbers[2, row]]
        sums[at] = total + fourth[numbers[3, row]]


def _chosen(builder: Any, one: Any, other: Any, places: Iterable[int]) -> Any:
    """Elements of two vectors, those of the second numbered on from those of the first."""
    places = list(places)
    kind = ir.VectorType(ir.IntType(32), len(places))
    return builder.shuffle_vector(one, other, ir.Constant(kind, places))


@intrinsic
def _add_few_leaves(
    _typing: Any, sums: Any, numbers: Any, leaf_values: Any, tree_leaves: Any, tree: Any
) -> Any:
    """As `_add_leaves`, for trees whose values take FEW_LEAVES places each, on a machine with AVX-512.

    There one instruction looks up 16 numbers, the lowest five bits of each, in a table of 32 halves of
    values. So the lower and the upper halves are looked up for each fourth row, and then put together.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tree = arguments[4]
        permute = builder.module.declare_intrinsic(
            "llvm.x86.avx512.vpermi2var.d.512", (), ir.FunctionType(_HALVES, [_HALVES, _HALVES, _HALVES])
        )

        def vector(argument: int, index: Any, kind: Any) -> Any:
            return _address(context, builder, signature.args[argument], arguments[argument], index, kind)

        tables = []
        for each in range(4):
            place = builder.add(tree, ir.Constant(_WORD, each))
            begin = builder.load(vector(3, place, _WORD))
            table = builder.bitcast(vector(2, begin, ir.DoubleType()), _HALVES.as_pointer())
            parts = (builder.gep(table, [ir.Constant(_WORD, part)]) for part in range(4))
            values = [builder.load(part, align=8) for part in parts]
            tables.append(
                [
                    [_chosen(builder, values[at], values[at + 1], range(half, 32, 2)) for at in (0, 2)]
                    for half in (0, 1)
                ]
            )
        with cgutils.for_range(builder, ir.Constant(_WORD, BLOCK // 64)) as loop:
            found = [
                builder.load(
                    vector(1, builder.add(loop.index, ir.Constant(_WORD, each * BLOCK // 64)), _HALVES),
                    align=8,
                )
                for each in range(4)
            ]
            for byte in range(4):
                first = builder.mul(loop.index, ir.Constant(_WORD, 8))
                places = [
                    vector(0, builder.add(first, ir.Constant(_WORD, 2 * byte + pair)), _VALUES)
                    for pair in (0, 1)
                ]
                totals = [builder.load(place, align=8) for place in places]
                for leaves, table in zip(found, tables, strict=True):
                    number = builder.lshr(leaves, ir.Constant(_HALVES, [8 * byte] * 16))
                    lower, upper = (builder.call(permute, [half[0], number, half[1]]) for half in table)
                    for pair in (0, 1):
                        # Two of each four values at once: that crosses no lane of the registers.
                        rows = [4 * four + 2 * pair + each for four in range(4) for each in (0, 1)]
                        whole = _chosen(builder, lower, upper, (at for row in rows for at in (row, 16 + row)))
                        totals[pair] = builder.fadd(totals[pair], builder.bitcast(whole, _VALUES))
                for place, total in zip(places, totals, strict=True):
                    builder.store(total, place, align=8)
        return context.get_dummy_value()

    return types.void(sums, numbers, leaf_values, tree_leaves, types.int64), generate


if not _HAS_PERMUTATION:
    _add_few_leaves = _add_leaves


# In line: a plan is some 150 words, which each call would copy.
@njit(nogil=True, forceinline=True)
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
    begin, end = plan.tree_nodes[tree], plan.tree_nodes[tree + 1]
    regions[0] = ~np.uint64(0)
    _split(masks, plan.node_mask, plan.node_region, (begin,), 0, end - begin, regions, (0,))
    count = end - begin + 1
    regions[count : -(-count // FEW_LEAVES) * FEW_LEAVES] = 0
    bits = plan.tree_planes[tree]
    if bits <= _FEW_PLANES:
        _number_few_regions(regions, 0, numbers, first)
    else:
        _number_more_regions(regions, count, planes, bits)
        _transpose(planes, 0, bits, numbers, first)


@njit(nogil=True)
def _number_more_regions(regions: np.ndarray, count: int, planes: np.ndarray, bits: int) -> None:
    """The planes that number the regions, where they are more than FEW_LEAVES."""
    _number_regions(regions, 0, planes, 0)
    planes[_FEW_PLANES : 8 * _bytes(bits)] = 0
    lower = _scratch(_FEW_PLANES)
    for part in range(1, -(-count // FEW_LEAVES)):
        _number_regions(regions, part * FEW_LEAVES, lower, 0)
        for plane in range(_FEW_PLANES):
            _xor(planes, plane, planes, plane, lower, plane)
        for plane in range(_FEW_PLANES, bits):
            if part >> (plane - _FEW_PLANES) & 1:
                for region in range(part * FEW_LEAVES, (part + 1) * FEW_LEAVES):
                    _xor(planes, plane, planes, plane, regions, region)


@njit(nogil=True, cache=True)
def fill_outputs(plan: Plan, columns: Columns, array: int, begin: int, end: int, outputs: np.ndarray) -> None:
    """Fill rows `begin` to `end` of `outputs`, float64 (models, rows), from a struct array's address."""
    masks, slots, regions, planes = (
        _scratch(plan.masks),
        _scratch(plan.slots),
        _scratch(plan.regions),
        _scratch(8 * BYTES),
    )
    numbers = _aligned(BYTES * BLOCK // 8).view(np.uint8).reshape(BYTES, BLOCK)
    sums = _aligned(BLOCK).view(np.float64)
    # The regions of two trees, and how many of them either tree before may have used; those beyond are empty.
    pair, used = _scratch(2 * FEW_LEAVES), FEW_LEAVES
    node_mask, node_region = plan.node_mask, plan.node_region
    for first in range(begin, end, BLOCK):
        count = min(BLOCK, end - first)
        _fill_masks(plan, columns, array, first, count, masks, slots)
        for model in range(outputs.shape[0]):
            sums[:] = 0.0
            tree, beyond = plan.model_trees[model], plan.model_trees[model + 1]
            while tree < beyond:
                # Four trees at a time, in their order: each sum is then loaded and stored once for the four.
                most = 0
                for each in range(tree, min(tree + 4, beyond)):
                    most = max(most, plan.tree_planes[each])
                if beyond - tree < 4 or most > 8:
                    _find_leaves(plan, tree, masks, regions, planes, numbers, 0)
                    values = plan.leaf_values[plan.tree_leaves[tree] :]
                    for at in range(BLOCK):
                        sums[at] += values[_number(numbers, ORDER[at], plan.tree_planes[tree])]
                    tree += 1
                    continue
                if most > _FEW_PLANES:
                    for each in range(4):
                        _find_leaves(plan, tree + each, masks, regions, planes, numbers, each)
                    _add_leaves(sums, numbers, plan.leaf_values, plan.tree_leaves, tree)
                    tree += 4
                    continue
                # Written out: Numba counts the references of all arrays that it passes to a function.
                for each in range(0, 4, 2):
                    one, other = plan.tree_nodes[tree + each], plan.tree_nodes[tree + each + 1]
                    nodes, others = other - one, plan.tree_nodes[tree + each + 2] - other
                    both = min(nodes, others)
                    pair[0] = ~np.uint64(0)
                    pair[FEW_LEAVES] = ~np.uint64(0)
                    _split(masks, node_mask, node_region, (one, other), 0, both, pair, (0, FEW_LEAVES))
                    _split(masks, node_mask, node_region, (one,), both, nodes, pair, (0,))
                    _split(masks, node_mask, node_region, (other,), both, others, pair, (FEW_LEAVES,))
                    for region in range(nodes + 1, used):
                        pair[region] = 0
                    for region in range(others + 1, used):
                        pair[FEW_LEAVES + region] = 0
                    used = max(nodes, others) + 1
                    _number_few_regions(pair, 0, numbers, each)
                    _number_few_regions(pair, FEW_LEAVES, numbers, each + 1)
                _add_few_leaves(sums, numbers, plan.leaf_values, plan.tree_leaves, tree)
                tree += 4
            factor = plan.sigmoid[model]
            for at in range(BLOCK):
                row, total = ORDER[at], sums[at]
                if row < count:
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
    _transpose(planes, 0, count, numbers, 0)


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
    masks, slots, planes = _scratch(plan.masks), _scratch(plan.slots), _scratch(8 * BYTES)
    numbers = _aligned(BYTES * BLOCK // 8).view(np.uint8).reshape(BYTES, BLOCK)
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
