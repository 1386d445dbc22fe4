"""LightGBM's text model, read without LightGBM: what scoring and reasons need of it, and nothing else.

The meaning of a model file is what LightGBM's predictor does with it (include/LightGBM/tree.h). A value
arrives at a tree as float64, and one of magnitude up to 1e-35 (as float32) arrives as 0. A node then sends it
left or right by its decision type, one byte:

    bit 0     categorical split; otherwise numerical
    bit 1     the default direction is left
    bits 2-3  the missing type: 0 none, 1 zero, 2 NaN

A numerical split sends x left when x <= threshold. What counts as missing goes the default direction
instead: nothing (none), zero and NaN (zero), or NaN (NaN). A NaN that does not count as missing is 0.

A categorical split cuts the fraction off and sends x left when it is in a set; negative values, NaN and
what is beyond the set go right.

Everything else that a model file can say is refused in one sentence by `read_trees`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CATEGORICAL = 1
DEFAULT_LEFT = 2
MISSING_SHIFT = 2
MISSING_NONE, MISSING_ZERO, MISSING_NAN = 0, 1, 2

# LightGBM's kZeroThreshold, a float32 constant: values up to it in magnitude are zero.
ZERO_THRESHOLD = float(np.float32(1e-35))

# Objectives whose prediction is the sum of the leaves itself.
_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
_TREE = re.compile(r"^Tree=\d+$", re.MULTILINE)


class UnsupportedModelError(ValueError):
    """A model file asks for something that scoring does not do; the message is one sentence naming it."""


@dataclass(frozen=True)
class Tree:
    """One tree. Nodes and leaves are numbered as in the file; a child n >= 0 is a node, n < 0 is leaf ~n.

    `categories` holds, a categorical node, the categories that go left (ascending), else None. The counts
    are the training rows that came by, which weigh the branches in TreeSHAP. A constant tree has one leaf and
    no nodes.
    """

    split_feature: np.ndarray
    threshold: np.ndarray
    decision_type: np.ndarray
    left_child: np.ndarray
    right_child: np.ndarray
    categories: tuple[np.ndarray | None, ...]
    internal_count: np.ndarray
    leaf_value: np.ndarray
    leaf_count: np.ndarray


@dataclass(frozen=True)
class Trees:
    """A whole booster: its trees, in the order in which their outputs are added.

    `sigmoid` is the factor of the logistic output, 1 / (1 + exp(-sigmoid * sum)); None: the sum itself.
    """

    feature_names: tuple[str, ...]
    sigmoid: float | None
    trees: tuple[Tree, ...]


def read_trees(text: str) -> Trees:
    """Parse what `Booster.model_to_string` writes.

    Raises UnsupportedModelError for a model that scoring would not reproduce, and ValueError for a text that
    is no LightGBM model.
    """
    body = text.partition("\nend of trees")[0]
    header_text, *tree_texts = _TREE.split(body)
    if not header_text.startswith("tree\n"):
        raise ValueError("The text is not a LightGBM model: it does not begin with 'tree'.")
    header = _entries(header_text)
    if "average_output" in header_text.splitlines():
        raise UnsupportedModelError(
            "The model averages its trees (boosting rf), which scoring does not support."
        )
    for key in ("num_class", "num_tree_per_iteration"):
        if header.get(key) != "1":
            raise UnsupportedModelError(
                f"The model has {key} {header.get(key)}, and scoring supports one output only."
            )
    sigmoid = _sigmoid(header.get("objective"))
    if header.get("version") not in ("v3", "v4"):
        raise UnsupportedModelError(
            f"The model file has version {header.get('version')}, and scoring supports v3 and v4."
        )
    return Trees(
        feature_names=tuple(header["feature_names"].split(" ")),
        sigmoid=sigmoid,
        trees=tuple(_read_tree(_entries(tree_text)) for tree_text in tree_texts),
    )


def _sigmoid(objective: str | None) -> float | None:
    name, *settings = (objective or "none").split()
    if name == "binary":
        for setting in settings:
            key, _, value = setting.partition(":")
            if key == "sigmoid":
                return float(value)
    # "regression sqrt" squares its output, so a setting matters; alpha only mattered in training.
    elif name in _IDENTITY and "sqrt" not in settings:
        return None
    raise UnsupportedModelError(f"The model has the objective '{objective}', which scoring does not support.")


def _read_tree(entries: Mapping[str, str]) -> Tree:
    if entries.get("is_linear", "0") != "0":
        raise UnsupportedModelError("The model has linear trees, which scoring does not support.")
    leaf_value = _numbers(entries["leaf_value"], np.float64)
    if len(leaf_value) != int(entries["num_leaves"]):
        raise ValueError("A tree of the model has another number of leaves than it says.")
    if len(leaf_value) == 1:
        nothing = np.empty(0, np.int64)
        return Tree(
            nothing, np.empty(0), nothing, nothing, nothing, (), nothing, leaf_value, np.zeros(1, np.int64)
        )
    threshold = _numbers(entries["threshold"], np.float64)
    decision_type = _numbers(entries["decision_type"], np.int64)
    return Tree(
        split_feature=_numbers(entries["split_feature"], np.int64),
        threshold=threshold,
        decision_type=decision_type,
        left_child=_numbers(entries["left_child"], np.int64),
        right_child=_numbers(entries["right_child"], np.int64),
        categories=_categories(entries, threshold, decision_type),
        internal_count=_numbers(entries["internal_count"], np.int64),
        leaf_value=leaf_value,
        leaf_count=_numbers(entries["leaf_count"], np.int64),
    )


def _categories(
    entries: Mapping[str, str], threshold: np.ndarray, decision_type: np.ndarray
) -> tuple[np.ndarray | None, ...]:
    """The sets of the categorical nodes: `threshold` is the number of a bitset among 32-bit words."""
    if entries["num_cat"] == "0":
        return (None,) * len(threshold)
    boundaries = _numbers(entries["cat_boundaries"], np.int64)
    words = np.array(entries["cat_threshold"].split(), dtype=np.uint32)
    sets: list[np.ndarray | None] = []
    for cut, kind in zip(threshold, decision_type, strict=True):
        if kind & CATEGORICAL:
            bitset = words[boundaries[int(cut)] : boundaries[int(cut) + 1]]
            sets.append(np.flatnonzero(np.unpackbits(bitset.astype("<u4").view(np.uint8), bitorder="little")))
        else:
            sets.append(None)
    return tuple(sets)


def _entries(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _numbers(text: str, dtype: type) -> np.ndarray:
    # Python's float() rounds correctly, as LightGBM's own parser does: both read the double that was written.
    return np.array([float(word) for word in text.split()] if dtype is np.float64 else text.split(), dtype)
