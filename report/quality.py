"""Checks of the data behind the report, with what was counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import yaml

from feature_repo.catalog import FeatureCatalog
from feature_repo.paths import repository_root
from report import figures, labels_again, reference

OK, BROKEN, DIFFERS, UNKNOWN = "ok", "broken", "differs", "–"
# A mix within so many percentage points of the reference counts as the same.
MIX_TOLERANCE = 0.05


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, how much, how much of it fails, and the verdict.

    BROKEN is a defect of the data. DIFFERS is not: other customers than the reference's are no mistake.
    """

    name: str
    counted: int | None
    unit: str
    failing: int | None
    result: str
    remark: str = ""


def project_variables() -> Mapping[str, Any]:
    """The vars of dbt_project.yml, where the definitions' constants and the plausible ranges stand."""
    return yaml.safe_load((repository_root() / "dbt_project.yml").read_text(encoding="utf-8"))["vars"]


@dataclass(frozen=True)
class Range:
    """The plausible range of a feature (None: no bound), what it really spans, and what fails."""

    feature: str
    least: float | None
    greatest: float | None
    minimum: float | None
    maximum: float | None
    nulls: int
    outside: int


def feature_ranges(
    warehouse: duckdb.DuckDBPyConnection, catalog: FeatureCatalog, variables: Mapping[str, Any]
) -> list[Range]:
    """A Range for each feature of the catalog that the warehouse has, over every snapshot."""
    present = feature_columns(warehouse)
    ranges = variables["plausible_ranges"]
    bounds = {
        feature.name: ranges.get(feature.unit, ranges[feature.data_type])
        for feature in catalog.features
        if feature.name in present
    }
    parts = []
    for name, (least, greatest) in bounds.items():
        # Not a number and infinities are never plausible, whatever the bounds.
        broken = [f"not isfinite({name}::double)"]
        broken += [f"{name} < {least}"] if least is not None else []
        broken += [f"{name} > {greatest}"] if greatest is not None else []
        parts.append(
            f"min({name}), max({name}), count(*) filter ({name} is null), "
            f"count(*) filter ({' or '.join(broken)})"
        )
    values = iter(
        warehouse.execute(f"select {', '.join(parts)} from features.customer_features").fetchall()[0]
    )
    return [
        Range(name, least, greatest, next(values), next(values), next(values), next(values))
        for name, (least, greatest) in bounds.items()
    ]


def feature_columns(warehouse: duckdb.DuckDBPyConnection) -> list[str]:
    """The columns of features.customer_features after its key."""
    described = warehouse.execute("describe features.customer_features").fetchall()
    return [row[0] for row in described if row[0] not in ("customer_id", "feature_timestamp")]


def checks(
    warehouse: duckdb.DuckDBPyConnection,
    catalog: FeatureCatalog,
    variables: Mapping[str, Any],
    ranges: list[Range],
) -> list[Check]:
    """All checks, in the order of the reference."""
    snapshots = figures.history(warehouse)["rows"]
    columns = feature_columns(warehouse)
    unlike = [name for name in catalog.names if name not in columns]
    unlike += [name for name in columns if name not in catalog.names]
    values = snapshots * len(ranges)
    found = [
        Check(
            f"all {len(catalog.names)} features in every record",
            snapshots,
            "records",
            snapshots if unlike else 0,
            _defect(len(unlike), snapshots),
            ", ".join(unlike),
        ),
        _counted("no nulls", values, "values", sum(each.nulls for each in ranges)),
        _counted(
            "plausible ranges",
            values,
            "values",
            sum(each.outside for each in ranges),
            ", ".join(each.feature for each in ranges if each.outside),
        ),
        _one_row_a_key(warehouse, snapshots),
        _segment_mix(warehouse),
    ]
    customers = labels_again.sampled_customers(warehouse)
    for comparison in labels_again.compare_labels(warehouse, variables, customers):
        found.append(
            _counted(
                f"{comparison.label} recomputed and equal",
                comparison.compared,
                "labels",
                comparison.differing,
                f"{comparison.not_null:,} of them not null",
            )
        )
    found.append(_labels_in_order(warehouse))
    found += [_sign(warehouse, each) for each in reference.CORRELATIONS]
    return found


def _counted(name: str, counted: int, unit: str, failing: int, remark: str = "") -> Check:
    return Check(name, counted, unit, failing, _defect(failing, counted), remark)


def _defect(failing: int, counted: int) -> str:
    return BROKEN if failing else OK if counted else UNKNOWN


def _one_row_a_key(warehouse: duckdb.DuckDBPyConnection, snapshots: int) -> Check:
    keys = figures.one(
        warehouse,
        """
        select
            (
                select count(*)
                from (select distinct customer_id, feature_timestamp from features.customer_features)
            ) as keys
          , (
                select count(*)
                from features.customer_features
                anti join labels.customer_labels using (customer_id, feature_timestamp)
            ) as without_labels
        """,
    )
    failing = snapshots - keys["keys"] + keys["without_labels"]
    return _counted("one record a customer and snapshot, each with its labels", snapshots, "records", failing)


def _segment_mix(warehouse: duckdb.DuckDBPyConnection) -> Check:
    rows = figures.period(warehouse)["rows"]
    name = f"segment mix within {100 * MIX_TOLERANCE:.0f} points of the reference"
    if not rows:
        return Check(name, 0, "records", None, UNKNOWN)
    mix = figures.segment_mix(warehouse)
    off = {
        segment: mix[segment] - expected
        for segment, expected in reference.SEGMENT_SHARES.items()
        if abs(mix[segment] - expected) > MIX_TOLERANCE
    }
    remark = ", ".join(f"{segment} {100 * distance:+.1f} points" for segment, distance in off.items())
    return Check(name, rows, "records", None, DIFFERS if off else OK, remark.replace("-", "−"))


def _labels_in_order(warehouse: duckdb.DuckDBPyConnection) -> Check:
    found = figures.one(
        warehouse,
        """
        select
            count(label_churn_risk_30d) as counted
          , count(*) filter (label_churn_risk_14d > label_churn_risk_30d) as failing
        from labels.customer_labels
        """,
    )
    return _counted(
        "churn within 14 days never above churn within 30", found["counted"], "labels", found["failing"]
    )


def _sign(warehouse: duckdb.DuckDBPyConnection, each: reference.Correlation) -> Check:
    name = f"{each.left} and {each.right}: correlation of the right sign"
    r = figures.correlation(warehouse, each.left, each.right, each.where)
    counted = figures.one(
        warehouse,
        f"""
        select count(*) as counted
        from report_rows
        where {each.where} and {each.left} is not null and {each.right} is not null
        """,
    )["counted"]
    if r is None:
        return Check(name, counted, "records", None, UNKNOWN)
    right = r * each.expected > 0
    return Check(name, counted, "records", None, OK if right else DIFFERS, f"r = {r:.2f}".replace("-", "−"))
