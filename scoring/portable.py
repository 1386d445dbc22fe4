"""Released models as plain SQL, for warehouses that run no Python.

    python -m scoring.portable --dialect spark --out predictions.sql

Each tree becomes one nested CASE over the feature columns, and a raw score the sum of its trees in their
order, starting from 0.0, so its float64 is LightGBM's to the last bit. No planner survives thousands of
CASEs in one expression: the statement is a chain of common table expressions ("layers"), each of which adds
a few trees of every model to the running sums of the layer before, and hands on only what later ones need.

The rules are those of LightGBM (scoring.trees), made portable by four preparations:

* A value within 1e-35 of zero is zero: Booster.predict makes it so before any tree sees it.
* NaN becomes null, since engines disagree about comparisons with NaN and agree about those with null.
* A comparison with null is not true, so a null takes the ELSE branch. Each split is written in the direction
  (`<=` or `>`) that puts the branch of missing values there; no split needs a test of its own for them.
* A category becomes one bit, and a set of categories one number. Not `in (1, 3, 5, ...)`: DuckDB plans
  each such list as a join.

What cannot be written so is refused by scoring.trees (UnsupportedModelError), never scored wrong.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from sqlglot import exp

from feature_repo.catalog import CatalogError, load_catalog
from feature_repo.files import write_whole
from feature_repo.paths import models_dir
from scoring.functions import HOW_TO_TRAIN, release_row
from scoring.release import (
    MODEL_NAMES,
    PROBABILITY_EDGE,
    Release,
    ReleaseError,
    read_champion,
)
from scoring.trees import (
    DEFAULT_LEFT,
    MISSING_NONE,
    MISSING_SHIFT,
    MISSING_ZERO,
    ZERO_THRESHOLD,
    Tree,
    Trees,
)

RELATION = "features.customer_features"

# A layer adds this many trees of each model. Planning time on DuckDB is about the same from 5 to 25; it grows
# with the square of the length of a sum, and with the number of layers.
TREES_PER_LAYER = 10
# Subqueries that engines would merge back into one expression must not nest deeper than parsers allow:
# SQLite's has a stack of 100 entries by default. The limit itself was chosen with a margin, not measured.
MAX_NESTING = 8
# Categories that share a column; the greatest, 2 to the power 30, is a positive 32-bit integer everywhere.
BITS_PER_WORD = 31

# exp(z) overflows above this z. Engines disagree about what it gives then: infinity or an error.
_LARGEST_EXPONENT = math.log(sys.float_info.max)
# exp(z) is too small below this z to change the sum 1 + exp(z), and PostgreSQL calls an underflow an error.
_SMALLEST_EXPONENT = -40.0


# === Dialects ===============================================================================================


@dataclass(frozen=True)
class Dialect:
    """What differs between engines, where sqlglot does not know it already."""

    name: str
    """As sqlglot calls it; dbt's adapters have the same names."""
    literal: Callable[[str], str]
    """How a float64 is written, given Python's shortest decimal for it with an exponent added."""
    not_a_number: str | None
    """Whether {value} is NaN; None where the engine has none."""
    layer: str = "{name} as ({select})"
    """A common table expression that the planner does not merge into the next one."""
    sum_so_far: str = "{score}"
    """The sum of the layer before."""


def _plain(decimal: str) -> str:
    # Without an exponent most engines read a DECIMAL.
    return decimal


def _as_fraction(decimal: str) -> str:
    """The number as an odd integer times or over powers of two, each step exact.

    SQLite's own parser of decimals is off by some bits for some numbers, depending on its version.
    """
    mantissa, exponent = math.frexp(float(decimal))
    numerator, exponent = int(math.ldexp(mantissa, 53)), exponent - 53
    while exponent < 0 and numerator % 2 == 0:
        numerator, exponent = numerator // 2, exponent + 1
    steps = [62] * (abs(exponent) // 62) + [abs(exponent) % 62]
    operator = "/" if exponent < 0 else "*"
    scaled = "".join(f" {operator} {2**step}" for step in steps if step)
    return f"({numerator}e0{scaled})" if scaled else f"{numerator}e0"


_FENCED = "{name} as materialized ({select})"

DIALECTS = {
    each.name: each
    for each in (
        Dialect("duckdb", _plain, "isnan({value})"),
        # Mentioned twice, or Spark would merge all layers into one sum, too deep for its stack.
        Dialect("spark", "{}D".format, "isnan({value})", sum_so_far="greatest({score}, {score})"),
        Dialect("postgres", "float8 '{}'".format, "{value} = float8 'NaN'", _FENCED),
        Dialect("snowflake", "'{}'::float".format, "{value} = 'NaN'::float"),
        Dialect("bigquery", _plain, "is_nan({value})"),
        Dialect("sqlite", _as_fraction, None, _FENCED),
    )
}


def dialect_named(name: str) -> Dialect:
    """The dialect of that name. Raises ValueError, listing the known ones, when there is none."""
    if name not in DIALECTS:
        raise ValueError(f"There is no dialect '{name}'; there are {', '.join(DIALECTS)}.")
    return DIALECTS[name]


def literal(value: float, dialect: Dialect) -> str:
    """SQL of exactly this float64. Raises ValueError when it is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"Portable SQL has no literal for {value}.")
    decimal = repr(float(value))
    return dialect.literal(decimal if "e" in decimal else f"{decimal}e0")


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
    """Turns trees into CASE expressions over prepared columns, and remembers which of them they use.

    `columns` names, by feature, the column of its numbers. Beside it there are, where they are used, the same
    with null for zero (suffix z) and the words of bits of its categories (suffix w0, w1, ...).
    """

    def __init__(self, columns: Sequence[str], dialect: Dialect) -> None:
        self._columns = columns
        self._dialect = dialect
        self.used: set[str] = set()

    def write(self, tree: Tree) -> str:
        leaves = [_Case((), literal(each, self._dialect), 0) for each in tree.leaf_value]
        nodes: dict[int, _Case] = {~number: leaf for number, leaf in enumerate(leaves)}
        # Children have greater numbers than their parents, so they are written first: no recursion, which
        # a tree that is one long chain would exhaust.
        for number in reversed(range(len(tree.split_feature))):
            left, right = nodes[int(tree.left_child[number])], nodes[int(tree.right_child[number])]
            nodes[number] = self._case(tree, number, left, right)
        return str(nodes[0] if len(tree.split_feature) else leaves[0])

    def _case(self, tree: Tree, number: int, left: _Case, right: _Case) -> _Case:
        column = self._columns[int(tree.split_feature[number])]
        categories = tree.categories[number]
        if categories is not None:
            then, otherwise = left, right
            condition, opposite = self._among(column, categories)
        else:
            kind = int(tree.decision_type[number])
            missing = kind >> MISSING_SHIFT
            column = self._use(f"{column}z" if missing == MISSING_ZERO else column)
            threshold = float(tree.threshold[number])
            at_most, above = self._sides(column, threshold)
            # Where no value counts as missing, LightGBM takes NaN for zero.
            missing_left = threshold >= 0.0 if missing == MISSING_NONE else bool(kind & DEFAULT_LEFT)
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

    def _sides(self, column: str, threshold: float) -> tuple[str, str]:
        """The conditions that the value is at most the threshold, and that it is above; a null is neither."""
        if threshold == math.inf:  # the split is between missing values and all others
            return f"{column} is not null", "1 = 0"
        written = literal(threshold, self._dialect)
        return f"{column} <= {written}", f"{column} > {written}"

    def _among(self, column: str, categories: np.ndarray) -> tuple[str, str]:
        """The conditions that the category is one of these, and that it is none of them."""
        words: dict[int, int] = defaultdict(int)
        for category in categories.tolist():
            words[category // BITS_PER_WORD] |= 1 << category % BITS_PER_WORD
        if not words:
            return "1 = 0", "1 = 1"
        shared = [
            exp.BitwiseAnd(
                this=exp.column(self._use(f"{column}w{word}")), expression=exp.Literal.number(bits)
            )
            for word, bits in words.items()
        ]
        common = [f"({each.sql(self._dialect.name)})" for each in shared]
        return (
            f"({' or '.join(f'{each} <> 0' for each in common)})",
            f"({' and '.join(f'{each} = 0' for each in common)})",
        )

    def _use(self, column: str) -> str:
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
    models: Mapping[str, Trees],
    dialect: Dialect,
    key_columns: Sequence[str],
    whole_row_of: Sequence[str] = (),
) -> list[Layer]:
    """The layers from the relation's columns to the raw scores.

    The last has the keys as k0, k1, ..., the raw scores of the models as s0, s1, ..., and, if `whole_row_of`
    names columns, `is_whole`: 1 when none of these is null, else 0.
    """
    names = sorted({feature for model in models.values() for feature in model.feature_names})
    numbered = {name: f"f{position}" for position, name in enumerate(names)}
    keys = [f"k{number}" for number in range(len(key_columns))]
    if whole_row_of:
        keys.append("is_whole")
    scores = [f"s{number}" for number in range(len(models))]

    # The trees first, from the last to the first: a layer hands on only what later ones use.
    longest = max(len(model.trees) for model in models.values())
    added: list[Layer] = []
    needed: set[str] = set()
    for start in reversed(range(0, max(longest, 1), TREES_PER_LAYER)):
        sums = []
        carried = sorted(needed)
        for score, model in zip(scores, models.values(), strict=True):
            writer = _TreeWriter([numbered[feature] for feature in model.feature_names], dialect)
            before = dialect.sum_so_far.format(score=score)
            # Sums associate to the left, so this adds tree after tree to the sum so far, as LightGBM does.
            terms = [writer.write(tree) for tree in model.trees[start : start + TREES_PER_LAYER]]
            sums.append(("\n    + ".join([before if start else literal(0.0, dialect), *terms]), score))
            needed |= writer.used
        added.append(Layer((*((name, name) for name in (*keys, *carried)), *sums)))
    added.reverse()

    first = [(_identifier(name, dialect), key) for name, key in zip(key_columns, keys, strict=False)]
    if whole_row_of:
        nulls = " or ".join(f"{_identifier(name, dialect)} is null" for name in whole_row_of)
        first.append((f"case when {nulls} then 0 else 1 end", "is_whole"))
    read = {column.partition("w")[0].rstrip("z") for column in needed}
    numbers = [
        (_number(_identifier(name, dialect), dialect), column)
        for name, column in numbered.items()
        if column in read
    ]
    words = _category_words(models.values(), numbered)
    prepared = [(_prepared(column, words, dialect), column) for column in sorted(needed)]
    return [Layer((*first, *numbers)), Layer((*((key, key) for key in keys), *prepared)), *added]


def _category_words(models: Iterable[Trees], numbered: Mapping[str, str]) -> dict[str, set[int]]:
    """The columns of category bits, each with the categories that any split asks for."""
    words: dict[str, set[int]] = defaultdict(set)
    for model in models:
        for tree in model.trees:
            for feature, categories in zip(tree.split_feature, tree.categories, strict=True):
                for category in () if categories is None else categories.tolist():
                    column = numbered[model.feature_names[int(feature)]]
                    words[f"{column}w{category // BITS_PER_WORD}"].add(category)
    return words


def _number(column: str, dialect: Dialect) -> str:
    """The column as float64, null where it is NaN, and zero where LightGBM takes it for zero."""
    value = _cast(column, "double", dialect)
    edge = literal(ZERO_THRESHOLD, dialect)
    missing = (
        "" if dialect.not_a_number is None else f"when {dialect.not_a_number.format(value=value)} then null "
    )
    return f"case {missing}when abs({value}) <= {edge} then {literal(0.0, dialect)} else {value} end"


def _prepared(column: str, categories: Mapping[str, set[int]], dialect: Dialect) -> str:
    if column in categories:
        return _bit(column.partition("w")[0], categories[column], dialect)
    if column.endswith("z"):  # zero counts as missing
        return f"nullif({column[:-1]}, {literal(0.0, dialect)})"
    return column


def _bit(value: str, categories: set[int], dialect: Dialect) -> str:
    """The bit of the category that the number is, the fraction cut off; 0 for null and any other category."""
    whens = []
    for category in sorted(categories):
        # Towards zero: above -1 it is category 0.
        lowest = (
            f"{value} >= {literal(category, dialect)}" if category else f"{value} > {literal(-1.0, dialect)}"
        )
        below = f"{value} < {literal(category + 1, dialect)}"
        whens.append(f"when {lowest} and {below} then {1 << category % BITS_PER_WORD}")
    return f"case {' '.join(whens)} else 0 end"


def _logistic(negated: str, dialect: Dialect) -> str:
    """1 / (1 + exp(negated)), without overflow or underflow, which some engines call an error."""
    zero, one = literal(0.0, dialect), literal(1.0, dialect)
    return (
        f"case when {negated} > {literal(_LARGEST_EXPONENT, dialect)} then {zero} "
        f"when {negated} < {literal(_SMALLEST_EXPONENT, dialect)} then {one} "
        f"else {one} / ({one} + exp({negated})) end"
    )


def _output(score: str, model: Trees, dialect: Dialect) -> str:
    if model.sigmoid is None:
        return score
    return _logistic(f"({literal(-model.sigmoid, dialect)} * {score})", dialect)


def prediction_layers(
    release: Release, models: Mapping[str, Trees], dialect: Dialect, keys: Sequence[str]
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
    lowest, highest = number(PROBABILITY_EDGE), number(1.0 - PROBABILITY_EDGE)
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
    # The optional ones come last.
    final += [(_cast("null", "double", dialect), name) for name in MODEL_NAMES if name not in models]
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


def booster_sql(models: Mapping[str, Trees], dialect: str, relation: str, key_columns: Sequence[str]) -> str:
    """A select of the keys and, a model of the mapping, `<name>_raw` (the sum of its trees) and `<name>`
    (what Booster.predict gives), for each row of `relation`.

    The features are columns of the names in the models; a null counts as NaN. `relation` is SQL and is not
    quoted. Raises ValueError for an unknown dialect.
    """
    spoken = dialect_named(dialect)
    named = [(f"k{number}", _identifier(key, spoken)) for number, key in enumerate(key_columns)]
    for number, (name, model) in enumerate(models.items()):
        named.append((f"s{number}", _identifier(f"{name}_raw", spoken)))
        named.append((_output(f"s{number}", model, spoken), _identifier(name, spoken)))
    return statement([*raw_score_layers(models, spoken, key_columns), Layer(tuple(named))], spoken, relation)


def prediction_sql(release: Release, dialect: str, relation: str = RELATION) -> str:
    """A select of the entity key, the snapshot and the five predictions of the release, for each row of
    `relation`, which has the columns of features.customer_features.

    The same values as `predict_customer_health` in DuckDB: null throughout where any feature is null; raw
    scores are equal to the bit, probabilities as far as the engine's exp and ln are those of NumPy.
    `relation` is SQL and is not quoted. Raises ValueError for an unknown dialect.
    """
    spoken = dialect_named(dialect)
    catalog = load_catalog()
    key_columns = (catalog.entity_key, catalog.timestamp)
    models = {name: model.trees for name, model in release.models.items()}
    keys = [f"k{number}" for number in range(len(key_columns))]
    layers = raw_score_layers(models, spoken, key_columns, whole_row_of=catalog.names)
    *steps, final = prediction_layers(release, models, spoken, keys)
    named = [(key, _identifier(name, spoken)) for key, name in zip(keys, key_columns, strict=True)]
    return statement([*layers, *steps, Layer((*named, *final.columns[len(keys) :]))], spoken, relation)


# === dbt and the command ====================================================================================


def dbt_macros(release: Release, models: Path, dialect: str) -> str:
    """The file of macros that macros/portable_scoring.sql dispatches to on the dialect's adapter: the
    predictions of the release, and the row of model_versions for it.
    """
    row = release_row(models, release.model_version, release.model_version)
    columns = ",\n    ".join(
        f"{_value(value, dialect_named(dialect))} as {name}" for name, value in row.items()
    )
    return (
        f"{{#- Release {release.model_version}, written by "
        f"'python -m scoring.portable --dialect {dialect} --dbt-macros'; not to be edited. -#}}\n"
        f"{{% macro {dialect}__portable_predictions(relation) -%}}\n"
        f"{prediction_sql(release, dialect, '{{ relation }}')}{{%- endmacro %}}\n\n"
        f"{{% macro {dialect}__portable_releases() -%}}\n"
        f"{{%- raw %}}select\n    {columns}{{% endraw -%}}\n{{%- endmacro %}}\n"
    )


def _value(value: str | bool | int | float | datetime | None, dialect: Dialect) -> str:
    """SQL of a value of model_versions."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        text = exp.Literal.string(value.isoformat(" "))
        return exp.cast(text, "timestamp").sql(dialect.name)
    if isinstance(value, str):
        return exp.Literal.string(value).sql(dialect.name)
    return _cast("null" if value is None else literal(value, dialect), "double", dialect)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 when the SQL was written, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m scoring.portable",
        description="Writes the champion as one SQL select of its predictions, for a warehouse that runs no "
        "Python.",
        epilog="The releases are in MODELS_DIR (default data/models).",
    )
    parser.add_argument("--dialect", required=True, help=f"one of {', '.join(DIALECTS)}")
    parser.add_argument("--out", type=Path, help="the file to write (default: standard output)")
    parser.add_argument(
        "--relation", default=RELATION, help="SQL that names the rows to score (default: %(default)s)"
    )
    parser.add_argument(
        "--dbt-macros",
        action="store_true",
        help="write the macros that macros/portable_scoring.sql calls, instead of a select of --relation",
    )
    options = parser.parse_args(arguments)
    try:
        release = read_champion(models_dir())
        if release is None:
            raise ReleaseError(HOW_TO_TRAIN.format(models_dir=models_dir()))
        if options.dbt_macros:
            text = dbt_macros(release, models_dir(), options.dialect)
        else:
            text = prediction_sql(release, options.dialect, options.relation)
        if options.out is None:
            sys.stdout.write(text)
        else:
            write_whole(options.out, text)
    except (CatalogError, OSError, ReleaseError, ValueError) as error:
        print(f"No SQL was written: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
