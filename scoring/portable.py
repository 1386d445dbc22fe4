"""Released models as plain SQL, for warehouses that run no Python.

    python -m scoring.portable --dialect spark --out predictions.sql

Each tree becomes one nested CASE over the feature columns, and a raw score the sum of its trees in their
order, starting from 0.0, so its float64 is LightGBM's to the last bit. No planner survives thousands of
CASEs in one expression: the statement is a chain of common table expressions ("layers"), each of which adds
a few trees of every model to the running sums of the layer before.

The rules are those of LightGBM's Tree::Decision, made portable by three preparations:

* A value within 1e-35 of zero is zero: Booster.predict makes it so before any tree sees it.
* NaN becomes null, since engines disagree about comparisons with NaN and agree about those with null.
* A comparison with null is not true, so a null takes the ELSE branch. Each split is written in the direction
  (`<=` or `>`) that puts the branch of missing values there; no split needs a test of its own for them.

What cannot be written so is refused by name (UnsupportedModelError), never scored wrong.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlglot import exp

from feature_repo.catalog import CatalogError, load_catalog
from feature_repo.paths import models_dir
from scoring.functions import HOW_TO_TRAIN
from scoring.release import MODEL_NAMES, Release, ReleaseError, read_champion, read_release

RELATION = "features.customer_features"
KEY_COLUMNS = ("customer_id", "feature_timestamp")

# A layer adds this many trees of each model. DuckDB's time grows faster than the number of trees in a layer.
TREES_PER_LAYER = 10
# Subqueries that engines would merge back into one expression must not nest deeper than parsers allow:
# SQLite's has a stack of 100 entries by default. The limit itself was chosen with a margin, not measured.
MAX_NESTING = 8

# LightGBM's kZeroThreshold, which is a float32.
ZERO_THRESHOLD = float(np.float32(1e-35))
_LARGEST_CATEGORY = 2**31
# exp(z) overflows above this z. Engines disagree about what it gives then: infinity or an error.
_LARGEST_EXPONENT = math.log(sys.float_info.max)
# exp(z) is too small below this z to change the sum 1 + exp(z), and PostgreSQL calls an underflow an error.
_SMALLEST_EXPONENT = -40.0
_PROBABILITY_EDGE = 1e-12  # scoring.release: probabilities nearer to 0 or 1 have no usable log-odds


class UnsupportedModelError(ValueError):
    """A model uses what portable SQL does not express; the message names the model and what it uses."""


# === What a model text says =================================================================================


@dataclass(frozen=True)
class Split:
    """One inner node. Children are node numbers, or ~leaf where they are leaves."""

    feature: int
    threshold: float
    """A row goes left when its value is at most this; without meaning for categories."""
    categories: tuple[int, ...] | None
    """A row goes left when its category is one of these; None for a numeric split."""
    missing: str
    """Which values take the default direction: "none", "zero" or "nan"."""
    default_left: bool
    left: int
    right: int


@dataclass(frozen=True)
class Tree:
    """A decision tree: the root is splits[0], or the only leaf when there are no splits."""

    splits: tuple[Split, ...]
    leaves: tuple[float, ...]


@dataclass(frozen=True)
class TreeModel:
    """What SQL needs of a LightGBM model: its features, its trees in order, and its output."""

    features: tuple[str, ...]
    trees: tuple[Tree, ...]
    sigmoid: float | None
    """The output is 1 / (1 + exp(-sigmoid * raw score)); None: the raw score itself."""


# Objectives whose output is the raw score.
_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
_MISSING = ("none", "zero", "nan")


def parse_model(text: str, name: str = "the model") -> TreeModel:
    """Read a LightGBM model text (`Booster.model_to_string()`).

    Raises UnsupportedModelError, naming the model and the reason, when it has linear trees, several classes,
    another objective than binary and plain regression, averaged output, or is no such text.
    """
    header_text, *tree_texts = text.partition("\nend of trees")[0].split("\nTree=")
    header = _fields(header_text)
    if not header_text.startswith("tree") or "feature_names" not in header:
        raise UnsupportedModelError(f"{name} is not a LightGBM model text.")
    if header.get("version") != "v4":
        raise UnsupportedModelError(f"{name} has the format {header.get('version')}; only v4 is supported.")
    if header.get("num_class") != "1" or header.get("num_tree_per_iteration") != "1":
        raise UnsupportedModelError(f"{name} has several classes; only one output is supported.")
    if "average_output" in header_text.splitlines():
        raise UnsupportedModelError(f"{name} averages its trees (random forest); only sums are supported.")
    features = tuple(header["feature_names"].split(" "))
    try:
        trees = tuple(_tree(_fields(each), len(features), name) for each in tree_texts)
    except (KeyError, IndexError, UnicodeError) as error:
        raise UnsupportedModelError(f"{name} is not a whole LightGBM model text: {error!r}.") from error
    if len(trees) != len(header.get("tree_sizes", "").split()):
        raise UnsupportedModelError(f"{name} is not a whole LightGBM model text: trees are missing.")
    return TreeModel(features, trees, _sigmoid(header.get("objective", ""), name))


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _sigmoid(objective: str, name: str) -> float | None:
    kind, *parameters = objective.split(" ")
    if kind == "binary" and len(parameters) == 1 and parameters[0].startswith("sigmoid:"):
        return float(parameters[0].removeprefix("sigmoid:"))
    if kind in _IDENTITY and not parameters:
        return None
    shown = f"objective '{objective}'" if objective else "a custom objective"
    raise UnsupportedModelError(f"{name} has {shown}; supported are binary and {', '.join(_IDENTITY)}.")


def _tree(fields: Mapping[str, str], feature_count: int, name: str) -> Tree:
    if fields.get("is_linear", "0") != "0":
        raise UnsupportedModelError(f"{name} has linear trees, which portable SQL does not express.")
    leaves = _numbers(fields["leaf_value"])
    if len(leaves) != int(fields["num_leaves"]):
        raise UnsupportedModelError(f"{name} is not a whole LightGBM model text: leaves are missing.")
    if len(leaves) == 1:
        return Tree((), _finite(leaves, name))
    thresholds = _numbers(fields["threshold"])
    boundaries = [int(each) for each in fields.get("cat_boundaries", "").split()]
    words = [int(each) for each in fields.get("cat_threshold", "").split()]
    splits = []
    for number, (feature, decision, left, right) in enumerate(
        zip(
            *([int(each) for each in fields[key].split()] for key in ("split_feature", "decision_type")),
            *([int(each) for each in fields[key].split()] for key in ("left_child", "right_child")),
            strict=True,
        )
    ):
        # The bits of decision_type: 0 categorical, 1 default left, 2 and 3 the kind of missing values.
        if not (decision >> 2) < len(_MISSING) or not 0 <= feature < feature_count:
            raise UnsupportedModelError(f"{name} has a split that this code does not know: {decision}.")
        categories = None
        if decision & 1:
            index = int(thresholds[number])
            categories = tuple(
                32 * position + bit
                for position, word in enumerate(words[boundaries[index] : boundaries[index + 1]])
                for bit in range(32)
                if word >> bit & 1
            )
        splits.append(
            Split(
                feature=feature,
                threshold=thresholds[number],
                categories=categories,
                missing=_MISSING[decision >> 2],
                default_left=bool(decision & 2),
                left=left,
                right=right,
            )
        )
    _finite(thresholds, name)
    return Tree(tuple(splits), _finite(leaves, name))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(each) for each in text.split())


def _finite(numbers: tuple[float, ...], name: str) -> tuple[float, ...]:
    if not all(map(math.isfinite, numbers)):
        raise UnsupportedModelError(f"{name} has a threshold or leaf that is not finite.")
    return numbers


# === Dialects ===============================================================================================


@dataclass(frozen=True)
class Dialect:
    """What differs between engines, where sqlglot does not know it already."""

    name: str
    """As sqlglot calls it."""
    literal: str
    """How a float64 is written, around the shortest decimal that gives back its bits; with an exponent."""
    not_a_number: str | None
    """Whether {value} is NaN; None where the engine has none."""
    layer: str = "{name} as ({select})"
    """A common table expression that the planner does not merge into the next one."""


DIALECTS = {
    each.name: each
    for each in (
        # A literal without an exponent is a DECIMAL here, and in most others.
        # Without `materialized` the plan of a full release took 272 s, with it 19 s; probably because the
        # planner merges projections, and later layers mention a score several times.
        Dialect("duckdb", "{decimal}", "isnan({value})", "{name} as materialized ({select})"),
        Dialect("spark", "{decimal}D", "isnan({value})"),
        Dialect(
            "postgres", "float8 '{decimal}'", "{value} = float8 'NaN'", "{name} as materialized ({select})"
        ),
        Dialect("snowflake", "'{decimal}'::float", "{value} = 'NaN'::float"),
        Dialect("bigquery", "{decimal}", "is_nan({value})"),
        Dialect("sqlite", "{decimal}", None, "{name} as materialized ({select})"),
    )
}


def dialect_named(name: str) -> Dialect:
    """The dialect of that name. Raises ValueError, listing the known ones, when there is none."""
    if name not in DIALECTS:
        raise ValueError(f"There is no dialect '{name}'; there are {', '.join(DIALECTS)}.")
    return DIALECTS[name]


def literal(value: float, dialect: Dialect) -> str:
    """SQL of exactly this finite float64."""
    decimal = repr(value)
    if "e" not in decimal:
        decimal += "e0"
    return dialect.literal.format(decimal=decimal)


def _identifier(name: str, dialect: Dialect) -> str:
    # Unquoted where possible: engines fold such names, each in its own way.
    return exp.to_identifier(name).sql(dialect.name)


def _cast(value: str, data_type: str, dialect: Dialect) -> str:
    return exp.cast(exp.Var(this=value), data_type).sql(dialect.name)


# === Trees ==================================================================================================


@dataclass(frozen=True)
class _Case:
    """The SQL of a subtree: WHENs that follow each other and an ELSE, or only that, which is a leaf."""

    whens: tuple[str, ...]
    otherwise: str
    nesting: int

    def __str__(self) -> str:
        return f"case {' '.join(self.whens)} else {self.otherwise} end" if self.whens else self.otherwise


class _TreeWriter:
    """Turns trees into CASE expressions over prepared columns, and remembers which of them they use."""

    def __init__(self, columns: Sequence[str], dialect: Dialect) -> None:
        self._columns = columns
        self._dialect = dialect
        self.used: set[str] = set()

    def write(self, tree: Tree) -> str:
        leaves = [_Case((), literal(each, self._dialect), 0) for each in tree.leaves]
        nodes: dict[int, _Case] = {~number: leaf for number, leaf in enumerate(leaves)}
        # Children have greater numbers than their parents, so they are written first: no recursion, which
        # a tree that is one long chain would exhaust.
        for number in reversed(range(len(tree.splits))):
            split = tree.splits[number]
            nodes[number] = self._case(split, nodes[split.left], nodes[split.right])
        return str(nodes[0] if tree.splits else leaves[0])

    def _case(self, split: Split, left: _Case, right: _Case) -> _Case:
        if split.categories is not None:
            column = self._column(split, "c")
            # No row has the category -2: a split may list none, and SQL has no empty list.
            listed = f"in ({', '.join(map(str, split.categories or (-2,)))})"
            then, otherwise = left, right
            condition, opposite = f"{column} {listed}", f"{column} not {listed}"
        else:
            column = self._column(split, "z" if split.missing == "zero" else "")
            threshold = literal(split.threshold, self._dialect)
            at_most, above = f"{column} <= {threshold}", f"{column} > {threshold}"
            # Where no value counts as missing, LightGBM takes NaN for zero.
            missing_left = split.threshold >= 0.0 if split.missing == "none" else split.default_left
            if missing_left:
                then, otherwise, condition, opposite = right, left, above, f"({at_most} or {column} is null)"
            else:
                then, otherwise, condition, opposite = left, right, at_most, f"({above} or {column} is null)"
        # Along the ELSE branches the WHENs of one CASE follow each other; only THEN branches nest. A side
        # that nests too deep changes places with the other, which costs a test for null.
        if then.nesting >= MAX_NESTING and then.nesting > otherwise.nesting:
            then, otherwise, condition = otherwise, then, opposite
        return _Case(
            (f"when {condition} then {then}", *otherwise.whens),
            otherwise.otherwise,
            max(then.nesting + 1, otherwise.nesting),
        )

    def _column(self, split: Split, treatment: str) -> str:
        column = f"{self._columns[split.feature]}{treatment}"
        self.used.add(column)
        return column


# === Statements =============================================================================================


@dataclass(frozen=True)
class Layer:
    """One common table expression: the columns it computes, each (expression, name), from the one before."""

    columns: tuple[tuple[str, str], ...]

    def select(self, source: str) -> str:
        """The select statement of this layer."""
        listed = ",\n    ".join(
            name if expression == name else f"{expression} as {name}" for expression, name in self.columns
        )
        return f"select\n    {listed}\nfrom {source}"


def raw_score_layers(
    models: Mapping[str, TreeModel],
    dialect: Dialect,
    key_columns: Sequence[str],
    whole_row_of: Sequence[str] = (),
    trees_per_layer: int = TREES_PER_LAYER,
) -> list[Layer]:
    """The layers from the relation's columns to the raw scores.

    The last has the keys as k0, k1, ..., the raw scores of the models as s0, s1, ..., and, if `whole_row_of`
    names columns, `is_whole`: 1 when none of these is null, else 0.
    """
    names = sorted({feature for model in models.values() for feature in model.features})
    numbered = {name: f"f{position}" for position, name in enumerate(names)}
    keys = [f"k{number}" for number in range(len(key_columns))]
    if whole_row_of:
        keys.append("is_whole")
    scores = [f"s{number}" for number in range(len(models))]

    # The trees first, from the last to the first: a layer hands on only what later ones use.
    longest = max(len(model.trees) for model in models.values())
    added: list[Layer] = []
    needed: set[str] = set()
    for start in reversed(range(0, longest, trees_per_layer)):
        sums = []
        carried = sorted(needed)
        for score, model in zip(scores, models.values(), strict=True):
            writer = _TreeWriter([numbered[feature] for feature in model.features], dialect)
            # Sums associate to the left, so this adds tree after tree to the sum so far, as LightGBM does.
            terms = [writer.write(tree) for tree in model.trees[start : start + trees_per_layer]]
            sums.append(("\n    + ".join([score if start else literal(0.0, dialect), *terms]), score))
            needed |= writer.used
        added.append(Layer((*((name, name) for name in (*keys, *carried)), *sums)))
    added.reverse()
    if not added:
        added.append(Layer((*((name, name) for name in keys), *((literal(0.0, dialect), s) for s in scores))))

    numbers = [
        (_number(_identifier(name, dialect), dialect), column)
        for name, column in numbered.items()
        if needed & {column, f"{column}z", f"{column}c"}
    ]
    first = [(_identifier(name, dialect), key) for name, key in zip(key_columns, keys, strict=False)]
    if whole_row_of:
        nulls = " or ".join(f"{_identifier(name, dialect)} is null" for name in whole_row_of)
        first.append((f"case when {nulls} then 0 else 1 end", "is_whole"))
    prepared = [(_prepared(column, dialect), column) for column in sorted(needed)]
    return [Layer((*first, *numbers)), Layer((*((key, key) for key in keys), *prepared)), *added]


def _number(column: str, dialect: Dialect) -> str:
    """The column as float64, null where it is NaN, and zero where LightGBM takes it for zero."""
    value = _cast(column, "double", dialect)
    edge = literal(ZERO_THRESHOLD, dialect)
    missing = (
        "" if dialect.not_a_number is None else f"when {dialect.not_a_number.format(value=value)} then null "
    )
    return f"case {missing}when abs({value}) <= {edge} then {literal(0.0, dialect)} else {value} end"


def _prepared(column: str, dialect: Dialect) -> str:
    if column.endswith("z"):  # zero counts as missing
        return f"nullif({column[:-1]}, {literal(0.0, dialect)})"
    if column.endswith("c"):
        # The category: the value towards zero; -1, which no split lists, for NaN and what an int cannot hold.
        value, end = column[:-1], literal(float(_LARGEST_CATEGORY), dialect)
        one = literal(1.0, dialect)
        whole = _cast(f"floor({value})", "int", dialect)
        return (
            f"case when {value} >= {one} and {value} < {end} then {whole} "
            f"when {value} > {literal(-1.0, dialect)} and {value} < {one} then 0 else -1 end"
        )
    return column


def _logistic(negated: str, dialect: Dialect) -> str:
    """1 / (1 + exp(negated)), without overflow or underflow, which some engines call an error."""
    zero, one = literal(0.0, dialect), literal(1.0, dialect)
    return (
        f"case when {negated} > {literal(_LARGEST_EXPONENT, dialect)} then {zero} "
        f"when {negated} < {literal(_SMALLEST_EXPONENT, dialect)} then {one} "
        f"else {one} / ({one} + exp({negated})) end"
    )


def _output(score: str, model: TreeModel, dialect: Dialect) -> str:
    if model.sigmoid is None:
        return score
    return _logistic(f"({literal(-model.sigmoid, dialect)} * {score})", dialect)


def prediction_layers(
    release: Release, models: Mapping[str, TreeModel], dialect: Dialect, keys: Sequence[str]
) -> list[Layer]:
    """The layers from raw scores to predictions: sigmoid, calibration, bounds, and the order of the risks."""
    zero_to_one = [
        number for number, model in enumerate(release.models.values()) if model.calibration is not None
    ]
    scores = [f"s{number}" for number in range(len(models))]
    carried = [(key, key) for key in (*keys, "is_whole")]

    def layer(changed: Mapping[int, str]) -> Layer:
        return Layer(
            (*carried, *((changed.get(number, score), score) for number, score in enumerate(scores)))
        )

    def number(value: float) -> str:
        return literal(float(value), dialect)

    # One step a layer, since each mentions the one before several times.
    outputs = {index: _output(scores[index], model, dialect) for index, model in enumerate(models.values())}
    lowest, highest = number(_PROBABILITY_EDGE), number(1.0 - _PROBABILITY_EDGE)
    clipped = {index: _clipped(scores[index], lowest, highest) for index in zero_to_one}
    negated, bounded = {}, {}
    for index, model in enumerate(release.models.values()):
        score = scores[index]
        if model.calibration is not None:
            slope, intercept = number(model.calibration.slope), number(model.calibration.intercept)
            log_odds = f"ln({score} / ({number(1.0)} - {score}))"
            negated[index] = f"-({slope} * {log_odds} + {intercept})"
        bounds = [None if each is None else number(each) for each in (model.lower, model.upper)]
        bounded[index] = _clipped(score, *bounds)
    calibrated = {index: _logistic(scores[index], dialect) for index in zero_to_one}

    sooner, later = (scores[MODEL_NAMES.index(name)] for name in ("churn_risk_14d", "churn_risk_30d"))
    ordered = {sooner: f"case when {sooner} < {later} then {sooner} else {later} end"}
    final = [
        (f"case when is_whole = 1 then {ordered.get(score, score)} end", name)
        for score, name in zip(scores, models, strict=True)
    ]
    return [
        *(layer(each) for each in (outputs, clipped, negated, calibrated, bounded)),
        Layer((*((key, key) for key in keys), *final)),
    ]


def _clipped(value: str, lower: str | None, upper: str | None) -> str:
    conditions = []
    if lower is not None:
        conditions.append(f"when {value} < {lower} then {lower} ")
    if upper is not None:
        conditions.append(f"when {value} > {upper} then {upper} ")
    return f"case {''.join(conditions)}else {value} end" if conditions else value


def statement(layers: Sequence[Layer], dialect: Dialect, relation: str) -> str:
    """One select statement: all layers but the last as common table expressions, then the last."""
    source = relation
    expressions = []
    for number, layer in enumerate(layers[:-1], start=1):
        name = f"layer_{number}"
        expressions.append(dialect.layer.format(name=name, select=f"\n{layer.select(source)}\n"))
        source = name
    beginning = "with " + ",\n\n".join(expressions) + "\n\n" if expressions else ""
    return f"{beginning}{layers[-1].select(source)}\n"


def booster_sql(
    booster_text: str,
    dialect: str,
    relation: str = RELATION,
    key_columns: Sequence[str] = KEY_COLUMNS,
    name: str = "the model",
    trees_per_layer: int = TREES_PER_LAYER,
) -> str:
    """A select of the keys, `raw_score` and `prediction` (Booster.predict) for each row of `relation`.

    The features are columns of the names in the model; a null counts as NaN. `relation` is SQL and is not
    quoted. Raises UnsupportedModelError, which names `name`, and ValueError for an unknown dialect.
    """
    spoken = dialect_named(dialect)
    model = parse_model(booster_text, name)
    layers = raw_score_layers({name: model}, spoken, key_columns, trees_per_layer=trees_per_layer)
    named = [(f"k{number}", _identifier(key, spoken)) for number, key in enumerate(key_columns)]
    outputs = [("s0", "raw_score"), (_output("s0", model, spoken), "prediction")]
    return statement([*layers, Layer((*named, *outputs))], spoken, relation)


def release_layers(
    release: Release, dialect: Dialect, key_columns: Sequence[str] = KEY_COLUMNS
) -> list[Layer]:
    """All layers of a release, from the columns of customer_features to its predictions."""
    models = {
        name: parse_model(model.booster_text, f"{name} of release {release.model_version}")
        for name, model in release.models.items()
    }
    keys = [f"k{number}" for number in range(len(key_columns))]
    layers = raw_score_layers(models, dialect, key_columns, whole_row_of=load_catalog().names)
    *steps, final = prediction_layers(release, models, dialect, keys)
    named = [(key, _identifier(name, dialect)) for key, name in zip(keys, key_columns, strict=True)]
    return [*layers, *steps, Layer((*named, *final.columns[len(keys) :]))]


def release_sql(
    release: Release, dialect: str, relation: str = RELATION, key_columns: Sequence[str] = KEY_COLUMNS
) -> str:
    """A select of the keys and the five predictions of the release for each row of `relation`.

    The same values as `predict_customer_health` in DuckDB: null throughout where any feature is null; raw
    scores are equal to the bit, probabilities as far as the engine's exp and ln are those of NumPy.
    `relation` is SQL and is not quoted. Raises UnsupportedModelError, and ValueError for an unknown dialect.
    """
    spoken = dialect_named(dialect)
    return statement(release_layers(release, spoken, key_columns), spoken, relation)


# === The command ============================================================================================


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 when the SQL was written, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m scoring.portable",
        description="Writes a released model as one SQL select of its predictions, for a warehouse that runs "
        "no Python.",
        epilog="The releases are in MODELS_DIR (default data/models).",
    )
    parser.add_argument("--dialect", required=True, help=f"one of {', '.join(DIALECTS)}")
    parser.add_argument("--model-version", metavar="vN", help="the release (default: the champion)")
    parser.add_argument(
        "--relation", default=RELATION, help="SQL that names the rows to score (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="the file to write (default: standard output)")
    parser.add_argument(
        "--dbt-macro",
        action="store_true",
        help="write the macro <dialect>__portable_predictions(relation) instead of a plain select",
    )
    options = parser.parse_args(arguments)
    try:
        if options.model_version is not None:
            release = read_release(models_dir(), options.model_version)
        else:
            release = read_champion(models_dir())
        if release is None:
            raise ReleaseError(HOW_TO_TRAIN.format(models_dir=models_dir()))
        relation = "{{ relation }}" if options.dbt_macro else options.relation
        text = release_sql(release, options.dialect, relation)
        if options.dbt_macro:
            text = dbt_macro(text, options.dialect, release.model_version)
        if options.out is None:
            sys.stdout.write(text)
        else:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(text, encoding="utf-8")
    except (CatalogError, OSError, ReleaseError, ValueError) as error:
        print(f"No SQL was written: {error}", file=sys.stderr)
        return 1
    return 0


def dbt_macro(sql: str, dialect: str, model_version: str) -> str:
    """The file of the macro that macros/portable_scoring.sql dispatches to on the dialect's adapter."""
    return (
        f"{{#- Release {model_version}, written by "
        f"`python -m scoring.portable --dialect {dialect} --dbt-macro`; not to be edited. -#}}\n"
        f"{{% macro {dialect}__portable_predictions(relation) -%}}\n{sql}{{%- endmacro %}}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
