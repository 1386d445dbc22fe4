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
leaf and feature. Patterns come from the masks of `scoring.kernel`, for a block of rows at once. With more
than `TABLE_FEATURES` features that table would leave the fastest cache, so it holds W of each pattern only;
with more than `_WEIGHT_FEATURES` there is none, and the formula is computed row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from scoring.arrow import ArrowAddress, incomplete_rows
from scoring.compiled import PATTERN_BITS, TABLE_FEATURES, Paths, Plan, fill_contributions, fill_tables
from scoring.kernel import Kernel, evaluation_order
from scoring.trees import Tree, Trees

_WEIGHT_FEATURES = 14
# Tables together; what is beyond is computed from the formula.
_TABLE_BYTES = 256 * 2**20


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
                conditions.append((int(plan.node_mask[plan.tree_nodes[number] + place]), right, bit))
            if len(bits) > PATTERN_BITS:
                raise ValueError(f"A path with more than {PATTERN_BITS} features has no reasons.")
            features += bits
            shares += own_shares
            values.append(float(tree.leaf_value[leaf]))
            leaf_conditions.append(len(conditions))
            leaf_features.append(len(features))
            entries = (len(bits) if len(bits) <= TABLE_FEATURES else 1) << len(bits)
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
    fill_tables(paths)
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
            plan = self.kernel.plan
            self.kernel.run(
                lambda begin, end: fill_contributions(
                    plan, self.paths, columns, address, begin, end, contributions
                ),
                len(rows),
            )
            return contributions, incomplete_rows(columns, address, len(rows))
