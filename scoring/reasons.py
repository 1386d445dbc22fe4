"""Exact TreeSHAP contributions, for blocks of rows: what each feature adds to a booster's sum.

LightGBM's pred_contrib walks every tree for every row and redoes the same sums of permutation weights each
time. But what a leaf contributes depends on the row only through which of the features on the leaf's path
hold there, a pattern of d bits for d distinct features (GPUTreeShap, Mitchell et al. 2020; Fast TreeSHAP v2,
Yang 2021, tabulate the same). For a leaf of value v, let z_i be the share of the training rows that pass the
tests of feature i on the path, of those that come to them; O the features whose tests the row passes, Z the
others. With

    W(O) = sum over S in O of |S|! (d - 1 - |S|)! / d! * (product of z_j over j in O but not in S)

the Shapley value of feature i is

    v (1 - z_i) (product of z_j over Z) W(O without i)     when i is in O
    -v (product of z_j over Z) W(O)                        when i is in Z, the same for all of Z

So each leaf gets a table, pattern → contributions, when the model is compiled, and a row costs one look-up a
leaf and feature. Patterns come from the codes of `scoring.kernel`, for a block of rows at once. With more
than `_TABLE_FEATURES` features that table would leave the fastest cache, so it holds W of each pattern only;
with more than `_WEIGHT_FEATURES` there is none, and the formula is computed row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from scoring.kernel import (
    BLOCK,
    ArrowAddress,
    Columns,
    Kernel,
    Plan,
    evaluation_order,
    fill_lanes,
    incomplete_rows,
)
from scoring.trees import Tree, Trees

_TABLE_FEATURES = 8
_WEIGHT_FEATURES = 14
# Tables together; what is beyond is computed from the formula.
_TABLE_BYTES = 256 * 2**20
_PATTERN_BITS = 64


class Paths(NamedTuple):
    """The leaves' paths as arrays.

    Leaf k has the conditions `leaf_conditions[k]` to `[k + 1]`, each (node of the plan, 1 for its right side,
    bit of the pattern that it clears when it does not hold), and the features `leaf_features[k]` to `[k +
    1]`, one a bit, with their z in `shares`. `leaf_table[k]` is where its table begins in `tables` (features
    × patterns, or one weight a pattern), -1 when it has none.
    """

    conditions: np.ndarray
    leaf_conditions: np.ndarray
    features: np.ndarray
    shares: np.ndarray
    leaf_features: np.ndarray
    leaf_value: np.ndarray
    leaf_table: np.ndarray
    tables: np.ndarray


def compile_paths(booster: Trees, plan: Plan) -> Paths:
    """The paths of all leaves of a booster, `plan` being its own compiled form."""
    conditions: list[tuple[int, int, int]] = []
    features: list[int] = []
    shares: list[float] = []
    values: list[float] = []
    leaf_conditions, leaf_features, leaf_table = [0], [0], []
    size = 0
    for number, tree in enumerate(booster.trees):
        for leaf, path in _paths(tree):
            bits: dict[int, int] = {}
            own_shares: list[float] = []
            for place, right, feature, share in path:
                bit = bits.setdefault(feature, len(bits))
                if bit == len(own_shares):
                    own_shares.append(1.0)
                own_shares[bit] *= share
                conditions.append((int(plan.tree_nodes[number]) + place, right, bit))
            if len(bits) > _PATTERN_BITS:
                raise ValueError(f"A path with more than {_PATTERN_BITS} features has no reasons.")
            features += bits
            shares += own_shares
            values.append(float(tree.leaf_value[leaf]))
            leaf_conditions.append(len(conditions))
            leaf_features.append(len(features))
            entries = (len(bits) if len(bits) <= _TABLE_FEATURES else 1) << len(bits)
            if len(bits) <= _WEIGHT_FEATURES and 8 * (size + entries) <= _TABLE_BYTES:
                leaf_table.append(size)
                size += entries
            else:
                leaf_table.append(-1)
    paths = Paths(
        conditions=np.array(conditions, dtype=np.int64).reshape(-1, 3),
        leaf_conditions=np.array(leaf_conditions, dtype=np.int64),
        features=np.array(features, dtype=np.int64),
        shares=np.array(shares, dtype=np.float64),
        leaf_features=np.array(leaf_features, dtype=np.int64),
        leaf_value=np.array(values, dtype=np.float64),
        leaf_table=np.array(leaf_table, dtype=np.int64),
        tables=np.empty(size, dtype=np.float64),
    )
    _fill_tables(paths)
    return paths


def _paths(tree: Tree) -> list[tuple[int, list[tuple[int, int, int, float]]]]:
    """Each leaf with its path: (place in the evaluation order, 1 for right, feature, share of the rows)."""
    if not len(tree.split_feature):
        return []
    place = {node: number for number, node in enumerate(evaluation_order(tree).nodes)}
    found = []
    waiting: list[tuple[int, list[tuple[int, int, int, float]]]] = [(0, [])]
    while waiting:
        node, path = waiting.pop()
        if node < 0:
            found.append((~node, path))
            continue
        for right, child in enumerate((int(tree.left_child[node]), int(tree.right_child[node]))):
            count = tree.leaf_count[~child] if child < 0 else tree.internal_count[child]
            share = float(count) / float(tree.internal_count[node])
            step = (place[node], right, int(tree.split_feature[node]), share)
            waiting.append((child, [*path, step]))
    return found


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
def _fill_tables(paths: Paths) -> None:
    powers = np.empty(_PATTERN_BITS + 1)
    effects = np.empty(_PATTERN_BITS)
    for leaf in range(len(paths.leaf_value)):
        begin = paths.leaf_table[leaf]
        if begin < 0:
            continue
        shares = paths.shares[paths.leaf_features[leaf] : paths.leaf_features[leaf + 1]]
        patterns = 1 << len(shares)
        for pattern in range(patterns):
            if len(shares) > _TABLE_FEATURES:
                paths.tables[begin + pattern] = _weight(shares, np.uint64(pattern), -1, powers)
                continue
            _contribute(shares, paths.leaf_value[leaf], np.uint64(pattern), powers, effects)
            for feature in range(len(shares)):
                paths.tables[begin + feature * patterns + pattern] = effects[feature]


@njit(nogil=True)
def _patterns(plan: Plan, paths: Paths, leaf: int, codes: np.ndarray, pattern: np.ndarray) -> None:
    """For each row of the block which features of the leaf's path hold, one bit each."""
    kind = pattern.dtype.type
    pattern[:] = ~kind(0)
    for condition in range(paths.leaf_conditions[leaf], paths.leaf_conditions[leaf + 1]):
        node, right, bit = paths.conditions[condition]
        code = codes[plan.node_lane[node]]
        cut = plan.node_cut[node]
        cleared = ~(kind(1) << kind(bit))
        if plan.node_is_categorical[node]:
            for row in range(BLOCK):
                pattern[row] = pattern[row] if ((code[row] & cut) != 0) == right else pattern[row] & cleared
        else:
            for row in range(BLOCK):
                pattern[row] = pattern[row] if (code[row] > cut) == right else pattern[row] & cleared


@njit(nogil=True, cache=True)
def _contributions(plan: Plan, paths: Paths, columns: Columns, array: int, contributions: np.ndarray) -> None:
    """Fill `contributions`, float64 (features, rows), from the Arrow struct array at an address."""
    codes = np.zeros((plan.lanes, BLOCK), np.uint8)
    narrow = np.zeros(BLOCK, np.uint16)
    wide = np.zeros(BLOCK, np.uint64)
    sums = np.zeros((contributions.shape[0], BLOCK))
    powers = np.empty(_PATTERN_BITS + 1)
    effects = np.empty(_PATTERN_BITS)
    for first in range(0, contributions.shape[1], BLOCK):
        count = min(BLOCK, contributions.shape[1] - first)
        fill_lanes(plan, columns, array, first, count, codes)
        sums[:] = 0.0
        for leaf in range(len(paths.leaf_value)):
            features = paths.features[paths.leaf_features[leaf] : paths.leaf_features[leaf + 1]]
            begin = paths.leaf_table[leaf]
            if begin >= 0 and len(features) <= _TABLE_FEATURES:
                _patterns(plan, paths, leaf, codes, narrow)
                patterns = 1 << len(features)
                mask = np.uint16(patterns - 1)
                for row in range(BLOCK):
                    narrow[row] &= mask
                for number in range(len(features)):
                    table = paths.tables[begin + number * patterns : begin + (number + 1) * patterns]
                    total = sums[features[number]]
                    for row in range(BLOCK):
                        total[row] += table[narrow[row]]
            else:
                _patterns(plan, paths, leaf, codes, wide)
                shares = paths.shares[paths.leaf_features[leaf] : paths.leaf_features[leaf + 1]]
                weights = paths.tables[begin : begin + (1 << len(features))] if begin >= 0 else powers[:0]
                for row in range(count):
                    if begin >= 0:
                        _look_up(shares, paths.leaf_value[leaf], wide[row], weights, effects)
                    else:
                        _contribute(shares, paths.leaf_value[leaf], wide[row], powers, effects)
                    for number in range(len(features)):
                        sums[features[number], row] += effects[number]
        for feature in range(contributions.shape[0]):
            for row in range(count):
                contributions[feature, first + row] = sums[feature, row]


class Explainer:
    """A booster, compiled to say what each feature adds. Safe to be called by several threads at once."""

    def __init__(self, booster: Trees) -> None:
        self.kernel = Kernel([booster])
        self.paths = compile_paths(booster, self.kernel.plan)

    def contributions(
        self, rows: pa.StructArray, required: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What each feature adds to each row's sum, float64 (features, rows), and the incomplete rows.

        Features are in the booster's order; the values are those of pred_contrib but for rounding (1e-9),
        without the base value. Incomplete rows as in `Kernel.outputs`.
        """
        contributions = np.empty((len(self.kernel.features), len(rows)))
        with ArrowAddress(rows) as address:
            columns = self.kernel.columns(rows.type, required)
            _contributions(self.kernel.plan, self.paths, columns, address, contributions)
            return contributions, incomplete_rows(columns, address, len(rows))
