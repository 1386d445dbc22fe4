"""The kernel gives the bits of Booster.predict for any model that it takes, and refuses others by name."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from scoring.compiled import BLOCK
from scoring.kernel import Kernel
from scoring.reasons import Explainer
from scoring.trees import CATEGORICAL, Trees, UnsupportedModelError, read_trees

QUIET = {"verbosity": -1, "num_threads": 1, "deterministic": True}
EDGES = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    -0.5,
    0.999,
    5e-324,
    -5e-324,
    1e-35,
    -1e-35,
    float(np.float32(1e-35)),
    float(np.nextafter(np.float32(1e-35), 1, dtype=np.float32)),
    1e300,
    -1e300,
    1e308,
    255.0,
    2147483647.0,
    2147483648.0,
    -2147483649.0,
    1e18,
    np.inf,
    -np.inf,
    np.nan,
)


def bits(values: Any) -> np.ndarray:
    """Comparable even where a value is NaN."""
    return np.ascontiguousarray(values, dtype=np.float64).view(np.int64)


def edited(text: str, line: str, value: str) -> str:
    """A model text with another value in all its lines that begin with `line`."""
    text = re.sub(rf"(?m)^{line}=.*$", f"{line}={value}", text)
    return re.sub(r"(?m)^tree_sizes=.*\n", "", text)  # LightGBM then reads tree by tree


def struct_rows(matrix: np.ndarray, names: tuple[str, ...], kinds: list[pa.DataType] | None = None) -> Any:
    """A float64 matrix as a struct array whose columns are stored as `kinds`."""
    kinds = kinds or [pa.float64()] * len(names)
    arrays = [
        pa.array(matrix[:, index].astype(kind.to_pandas_dtype()), from_pandas=False)
        for index, kind in enumerate(kinds)
    ]
    return pa.StructArray.from_arrays(arrays, names=list(names))


def assert_equal_bits(
    texts: list[str], matrix: np.ndarray, rows: pa.StructArray, names: tuple[str, ...]
) -> None:
    """Several boosters in one kernel against Booster.predict of each."""
    outputs, incomplete = Kernel([read_trees(text) for text in texts]).outputs(rows)
    assert incomplete is None
    for text, output in zip(texts, outputs, strict=True):
        booster = lightgbm.Booster(model_str=text)
        own = matrix[:, [names.index(name) for name in booster.feature_name()]]
        assert np.array_equal(bits(output), bits(booster.predict(own)))


class Case:
    """Boosters of random shape on random data, and rows that are hard for them."""

    def __init__(self, seed: int) -> None:
        self.random = random = np.random.default_rng(seed)
        self.width = int(random.integers(1, 9))
        self.names = tuple(f"feature_{index}" for index in range(self.width))
        self.categorical = [index for index in range(self.width) if random.random() < 0.3]
        texts = [self.trained() for _ in range(int(random.integers(1, 4)))]
        self.texts = texts
        self.matrix = self.hard_rows([read_trees(text) for text in texts])

    def column(self, index: int, rows: int) -> np.ndarray:
        random = self.random
        if index in self.categorical:
            codes = random.choice(random.integers(0, random.choice([5, 40, 1000]), 12), rows).astype(float)
            codes[random.random(rows) < 0.05] = -1
            return codes
        values = random.choice(
            [
                random.normal(0, 2, rows),
                random.integers(-3, 6, rows).astype(float),
                random.exponential(1e-3, rows),
                np.round(random.normal(0, 1, rows), 1),
                random.normal(0, 1e-35, rows),
            ]
        )
        return np.where(random.random(rows) < random.choice([0, 0.2]), 0.0, values)

    def trained(self) -> str:
        random = self.random
        rows = int(random.integers(30, 1200))
        matrix = np.stack([self.column(index, rows) for index in range(self.width)], axis=1)
        signal = np.nan_to_num(matrix).sum(axis=1) + random.normal(0, 1, rows)
        if random.random() < 0.5:
            matrix[random.random(matrix.shape) < 0.15] = np.nan
        objective = str(random.choice(["binary", "regression", "regression_l1", "huber", "quantile"]))
        order = random.permutation(self.width)
        settings = {
            **QUIET,
            "objective": objective,
            "num_leaves": int(random.choice([2, 4, 31, 128])),
            "max_depth": int(random.choice([-1, 2, 5])),
            "min_data_in_leaf": int(random.choice([1, 5, rows])),  # all rows: no split, constant trees
            "min_data_in_bin": 1,
            "min_data_per_group": int(random.choice([1, 20])),
            "cat_smooth": 1.0,
            "max_cat_to_onehot": int(random.choice([1, 4, 50])),
            "max_bin": int(random.choice([4, 255, 1500])),
            "learning_rate": float(random.choice([0.1, 1.0])),
            "use_missing": bool(random.random() < 0.7),
            "zero_as_missing": bool(random.random() < 0.4),
            "sigmoid": float(random.choice([1.0, 0.7])),
        }
        labels = (signal > np.median(signal)).astype(float) if objective == "binary" else signal
        booster = lightgbm.train(
            settings,
            lightgbm.Dataset(
                matrix[:, order],
                labels,
                feature_name=[self.names[index] for index in order],
                categorical_feature=[place for place, index in enumerate(order) if index in self.categorical],
            ),
            int(random.integers(1, 25)),
        )
        return booster.model_to_string()

    def hard_rows(self, boosters: list[Trees]) -> np.ndarray:
        """Random rows in which many values are edges, thresholds, their neighbours, or next to a category."""
        random = self.random
        special: list[list[float]] = [list(EDGES) for _ in self.names]
        for booster in boosters:
            for tree in booster.trees:
                for feature, cut, kind, lefts in zip(
                    tree.split_feature, tree.threshold, tree.decision_type, tree.categories, strict=True
                ):
                    values = special[self.names.index(booster.feature_names[feature])]
                    if kind & CATEGORICAL:
                        assert lefts is not None
                        values += [value for each in lefts for value in (each, each + 0.5, each + 1, -each)]
                    else:
                        values += [cut, np.nextafter(cut, -np.inf), np.nextafter(cut, np.inf)]
        rows = int(random.integers(1, 900))
        matrix = np.stack([self.column(index, rows) for index in range(self.width)], axis=1)
        for index, values in enumerate(special):
            chosen = random.random(rows) < 0.6
            matrix[chosen, index] = random.choice(np.array(values), int(chosen.sum()))
        return matrix


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_any_booster_has_the_bits_of_lightgbm(first: int) -> None:
    for seed in range(first, first + 20):
        case = Case(seed)
        assert_equal_bits(case.texts, case.matrix, struct_rows(case.matrix, case.names), case.names)


@pytest.mark.parametrize("seed", range(1000, 1020))
def test_columns_are_read_as_they_are_stored(seed: int) -> None:
    """int32, int64, float32 and float64, in slices, with fields that no model needs and in another order."""
    case = Case(seed)
    kinds = [pa.float64(), pa.float32(), pa.int32(), pa.int64()]
    chosen = [kinds[number] for number in case.random.integers(0, 4, case.width)]
    matrix = case.matrix.copy()
    for index, kind in enumerate(chosen):
        if pa.types.is_integer(kind):
            matrix[:, index] = np.clip(np.nan_to_num(np.trunc(matrix[:, index])), -(2**31), 2**31 - 1)
        elif kind == pa.float32():
            with np.errstate(over="ignore"):
                matrix[:, index] = matrix[:, index].astype(np.float32)
    rows = struct_rows(matrix, case.names, chosen)
    order = case.random.permutation(case.width)
    wide = pa.StructArray.from_arrays(
        [pa.array(["x"] * len(rows)), *(rows.field(int(index)) for index in order)],
        names=["customer_id", *(case.names[index] for index in order)],
    )
    begin = len(rows) // 3
    assert_equal_bits(case.texts, matrix[begin:], wide.slice(begin), case.names)
    sliced_children = pa.StructArray.from_arrays(
        [rows.field(index).slice(begin) for index in range(case.width)], names=list(case.names)
    )
    assert_equal_bits(case.texts, matrix[begin:], sliced_children, case.names)


def small_text(**settings: Any) -> str:
    random = np.random.default_rng(3)
    matrix = random.normal(0, 1, (3000, 3))
    labels = matrix.sum(axis=1) + random.normal(0, 0.3, 3000)
    if settings.get("objective") == "binary":
        labels = (labels > 0).astype(float)
    if settings.get("objective") in ("multiclass", "lambdarank"):
        labels = random.integers(0, 3, 3000)
    if settings.get("objective") in ("poisson", "cross_entropy", "gamma"):
        labels = random.random(3000)
    group = [100] * 30 if settings.get("objective") == "lambdarank" else None
    data = lightgbm.Dataset(matrix, labels, group=group, feature_name=["a", "b", "c"], params=QUIET)
    return lightgbm.train({**QUIET, **settings}, data, 3).model_to_string()


def test_many_thresholds_and_more_leaves_than_a_byte_numbers() -> None:
    random = np.random.default_rng(1)
    matrix = random.normal(0, 1, (6000, 2))
    booster = lightgbm.train(
        {**QUIET, "num_leaves": 700, "max_bin": 5000, "min_data_in_leaf": 1, "min_data_in_bin": 1},
        lightgbm.Dataset(matrix, np.sin(9 * matrix[:, 0]) + matrix[:, 1], feature_name=["a", "b"]),
        5,
    )
    trees = read_trees(booster.model_to_string())
    assert max(len(tree.leaf_value) for tree in trees.trees) > 256
    assert_equal_bits([booster.model_to_string()], matrix, struct_rows(matrix, ("a", "b")), ("a", "b"))


def test_blocks_in_which_all_rows_are_alike() -> None:
    """Whole blocks of one edge, of NaN, of what lies beyond all thresholds; then all of them in a block."""
    text = small_text(objective="regression", num_leaves=31, max_bin=1000, min_data_in_bin=1)
    cuts = np.unique(np.concatenate([tree.threshold for tree in read_trees(text).trees]))
    values = np.array([*EDGES, *cuts, *np.nextafter(cuts, -np.inf), *np.nextafter(cuts, np.inf)])
    matrix = np.repeat(values[:, None], BLOCK, axis=0) + np.zeros(3)
    assert_equal_bits([text], matrix, struct_rows(matrix, ("a", "b", "c")), ("a", "b", "c"))
    matrix = np.tile(values[:, None], (5, 3))
    assert_equal_bits([text], matrix, struct_rows(matrix, ("a", "b", "c")), ("a", "b", "c"))


CROWDED = {
    "evenly": np.linspace(-3.0, 3.0, 30),
    "far apart": np.concatenate([np.linspace(0.0, 1e-3, 20), np.geomspace(1.0, 1e300, 10)]),
    "a crowd between extremes": np.array([-1e308, *np.linspace(1.0, 1.0 + 1e-9, 28), 1e308]),
    "crowds at both ends": np.concatenate([np.linspace(-1.0, -1.0 + 1e-12, 15), 1e12 + np.arange(15)]),
    "neighbours": 1.0 + np.arange(30) * np.finfo(float).eps,
    "next to nothing": np.arange(-15, 15) * 5e-324,
    "all equal": np.full(30, 0.5),
    "infinite": np.array([-np.inf, *np.linspace(-1.0, 1.0, 28), np.inf]),
}


@pytest.mark.parametrize("crowd", CROWDED)
@pytest.mark.parametrize("kind", [2, 6, 8, 10])
def test_thresholds_however_they_are_spread(crowd: str, kind: int) -> None:
    """Many to a bucket, none to a bucket, and buckets without a width."""
    cuts = np.sort(CROWDED[crowd])
    values = np.array([*EDGES, *cuts, *np.nextafter(cuts, -np.inf), *np.nextafter(cuts, np.inf)])
    random = np.random.default_rng(11)
    text = small_text(objective="regression", num_leaves=31)
    text = edited(text, "threshold", " ".join(map(repr, random.permutation(cuts).tolist())))
    text = edited(text, "decision_type", " ".join([str(kind)] * len(cuts)))
    matrix = random.choice(values, (3 * BLOCK, 3))
    assert_equal_bits([text], matrix, struct_rows(matrix, ("a", "b", "c")), ("a", "b", "c"))


def test_trees_of_many_sizes_in_turn() -> None:
    """Trees are done two and four at a time, those of up to 32 leaves otherwise than larger ones."""
    random = np.random.default_rng(12)
    matrix = random.normal(0, 1, (2000, 3))
    names = ("a", "b", "c")
    for sizes in ((31, 2, 32, 7), (2, 31, 5, 30, 8), (32, 33, 12, 200, 3), (300, 31, 31, 31, 31, 600, 2)):
        data = lightgbm.Dataset(matrix, matrix.sum(axis=1), feature_name=list(names))
        booster = lightgbm.Booster({**QUIET, "objective": "regression", "min_data_in_leaf": 1}, data)
        for size in sizes * 3:
            booster.reset_parameter({"num_leaves": size})
            booster.update()
        text = booster.model_to_string()
        assert {len(tree.leaf_value) for tree in read_trees(text).trees} == set(sizes)
        assert_equal_bits([text, text], matrix, struct_rows(matrix, names), names)


@pytest.mark.parametrize("cut", ["0", "-0", "1e-40", "-1e-40", "1e-35", "1e300", "-1e300", "1e308"])
@pytest.mark.parametrize("kind", range(0, 12, 2))
def test_any_threshold_and_missing_type(cut: str, kind: int) -> None:
    """Also those that LightGBM's training never writes."""
    text = edited(small_text(objective="regression", num_leaves=2), "threshold", cut)
    text = edited(text, "decision_type", str(kind))
    matrix = np.tile(np.array(EDGES)[:, None], (1, 3))
    assert_equal_bits([text], matrix, struct_rows(matrix, ("a", "b", "c")), ("a", "b", "c"))


@pytest.mark.parametrize("cut", ["0", "1e-40", "-1e-40", "2", "-3", "0.5", "-0.5", "4000", "1e6", "-1e300"])
@pytest.mark.parametrize("kind", range(0, 12, 2))
def test_whole_numbers_at_any_threshold(cut: str, kind: int) -> None:
    """Also equal to it and far from it; they are looked up in a table where that is not long."""
    text = edited(small_text(objective="regression", num_leaves=2), "threshold", cut)
    text = edited(text, "decision_type", str(kind))
    near = math.trunc(max(float(cut), -1e6)) + np.arange(-4, 5)
    numbers = np.unique([*range(-9, 10), *near, -(2**31), 2**31 - 1]).astype(np.float64)
    for whole in (pa.int32(), pa.int64()):
        matrix = np.tile(numbers[:, None], (1, 3))
        rows = struct_rows(matrix, ("a", "b", "c"), [whole] * 3)
        assert_equal_bits([text], matrix, rows, ("a", "b", "c"))


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_logistic_output_has_the_bits_of_lightgbm(scale: float) -> None:
    """A tree with a leaf for nearly each of thousands of sums, from certain to certain."""
    values = np.linspace(-4, 4, 9000)[:, None]
    labels = (np.random.default_rng(0).random(9000) < 0.5).astype(float)
    booster = lightgbm.train(
        {**QUIET, "objective": "binary", "num_leaves": 4000, "min_data_in_leaf": 1, "max_bin": 9000,
         "min_data_in_bin": 1, "min_sum_hessian_in_leaf": 0.0},
        lightgbm.Dataset(values, labels, feature_name=["a"]),
        1,
    )  # fmt: skip
    random = np.random.default_rng(2)
    text = booster.model_to_string()
    leaves = int(re.search(r"num_leaves=(\d+)", text)[1])
    drawn = " ".join(repr(float(value)) for value in random.normal(0, 3 * scale, leaves))
    text = edited(text, "leaf_value", drawn)
    assert len(np.unique(lightgbm.Booster(model_str=text).predict(values))) > leaves / 4
    assert_equal_bits([text], values, struct_rows(values, ("a",)), ("a",))


def test_no_rows_one_row_and_rows_around_the_block() -> None:
    text = small_text(objective="binary")
    kernel = Kernel([read_trees(text)])
    matrix = np.random.default_rng(4).normal(0, 1, (3 * BLOCK, 3))
    expected = lightgbm.Booster(model_str=text).predict(matrix)
    rows = struct_rows(matrix, ("a", "b", "c"))
    for count in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK):
        outputs, _ = kernel.outputs(rows.slice(0, count))
        assert np.array_equal(bits(outputs[0]), bits(expected[:count]))


def test_nulls_are_found_where_they_are_required() -> None:
    kernel = Kernel([read_trees(small_text())])
    columns = {name: [1.0] * 20 for name in ("a", "b", "c", "other")}
    columns["a"][3] = columns["other"][17] = None
    rows = pa.StructArray.from_arrays(
        [pa.array(values, pa.float64()) for values in columns.values()],
        names=list(columns),
        mask=pa.array([number == 9 for number in range(20)]),
    )
    for required, missing in ((("a", "b", "c"), {3, 9}), (tuple(columns), {3, 9, 17})):
        for begin in (0, 2, 8, 13):
            _, incomplete = kernel.outputs(rows.slice(begin), required)
            expected = {row for row in missing if row >= begin}
            assert (incomplete is not None) == bool(expected)
            assert incomplete is None or set(np.flatnonzero(incomplete) + begin) == expected


WITHOUT_AVX512 = """
import scoring.compiled
import test_kernel

assert not scoring.compiled._HAS_PERMUTATION
test_kernel.test_any_booster_has_the_bits_of_lightgbm(0)
test_kernel.test_trees_of_many_sizes_in_turn()
test_kernel.test_contributions_are_those_of_pred_contrib(0)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is of x86 processors")
def test_a_processor_without_avx512_scores_alike(tmp_path: Path) -> None:
    """Leaf values are added in another way there, which other machines never run."""
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "x86-64-v3",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    subprocess.run(
        [sys.executable, "-c", WITHOUT_AVX512], cwd=Path(__file__).parent, env=environment, check=True
    )


def test_threads_share_a_kernel() -> None:
    text = small_text(objective="binary")
    kernel = Kernel([read_trees(text)])
    matrix = np.random.default_rng(4).normal(0, 1, (20_000, 3))
    rows = struct_rows(matrix, ("a", "b", "c"))
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(kernel.outputs(rows)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = lightgbm.Booster(model_str=text).predict(matrix)
    assert all(np.array_equal(bits(result[0]), bits(expected)) for result in results)
    assert len(results) == 4


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"linear_tree": True}, "linear trees"),
        ({"objective": "multiclass", "num_class": 3}, "num_class 3"),
        ({"objective": "lambdarank"}, "'lambdarank'"),
        ({"objective": "poisson"}, "'poisson'"),
        ({"objective": "gamma"}, "'gamma'"),
        ({"objective": "cross_entropy"}, "'cross_entropy'"),
        ({"objective": "regression", "reg_sqrt": True}, "'regression sqrt'"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "boosting rf"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=re.escape(named)) as refusal:
        read_trees(small_text(**settings))
    assert str(refusal.value).count(".") == 1


def test_other_refusals() -> None:
    with pytest.raises(UnsupportedModelError, match="objective"):
        read_trees(re.sub(r"(?m)^objective=.*\n", "", small_text()))
    with pytest.raises(UnsupportedModelError, match="version v9"):
        read_trees(small_text().replace("version=v4", "version=v9"))
    with pytest.raises(ValueError, match="is not a LightGBM model"):
        read_trees("{}")
    kernel = Kernel([read_trees(small_text())])
    with pytest.raises(ValueError, match="'c'"):
        kernel.outputs(struct_rows(np.zeros((2, 2)), ("a", "b")))
    with pytest.raises(ValueError, match="type string"):
        kernel.outputs(pa.StructArray.from_arrays([pa.array(["x"])] * 3, names=["a", "b", "c"]))


@pytest.mark.parametrize("settings", [{"boosting": "dart"}, {"boosting": "goss"}, {"extra_trees": True}])
def test_other_ways_of_boosting_score_alike(settings: dict[str, Any]) -> None:
    matrix = np.random.default_rng(5).normal(0, 1, (1000, 3))
    assert_equal_bits([small_text(**settings)], matrix, struct_rows(matrix, ("a", "b", "c")), ("a", "b", "c"))


# === Reasons ================================================================================================


@pytest.mark.parametrize("first", range(2000, 2060, 20))
def test_contributions_are_those_of_pred_contrib(first: int) -> None:
    for seed in range(first, first + 20):
        case = Case(seed)
        rows = struct_rows(case.matrix, case.names)
        for text in case.texts:
            assert_contributions(text, case.matrix, rows, case.names)


def test_contributions_of_deep_paths_of_many_features() -> None:
    """With full tables, with weights only, and by the formula."""
    random = np.random.default_rng(6)
    names = tuple(f"feature_{index}" for index in range(20))
    matrix = (random.random((3000, 20)) < 0.85).astype(float)
    # How many features are 1 before the first 0: each level splits off the rows whose next feature is 0.
    steps = np.cumprod(matrix[:, :17], axis=1)
    text = lightgbm.train(
        {**QUIET, "num_leaves": 40, "min_data_in_leaf": 1, "min_data_in_bin": 1},
        lightgbm.Dataset(matrix, steps.sum(axis=1) * 1.0, feature_name=list(names)),
        10,
    ).model_to_string()
    lengths = np.diff(Explainer(read_trees(text)).paths.leaf_features)
    assert lengths.min() <= 8
    assert lengths.max() > 14
    assert ((lengths > 8) & (lengths <= 14)).any()
    assert_contributions(text, matrix[:200], struct_rows(matrix[:200], names), names)


def assert_contributions(text: str, matrix: np.ndarray, rows: pa.StructArray, names: tuple[str, ...]) -> None:
    booster = lightgbm.Booster(model_str=text)
    own = matrix[:, [names.index(name) for name in booster.feature_name()]]
    expected = booster.predict(own, pred_contrib=True)[:, :-1].T
    contributions, _ = Explainer(read_trees(text)).contributions(rows)
    assert np.abs(contributions - expected).max() <= 1e-9
