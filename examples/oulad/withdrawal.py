"""Predicted risk beside actual withdrawal, which no raw table, feature or label knows of.

    python -m examples.oulad.withdrawal --data DIRECTORY --out DIRECTORY

For each Monday of a presentation that lies after all training data, and each student who is still
registered then: does the churn risk tell who withdraws within the next 30 days? Prints the figures and
writes them to withdrawal.json and withdrawal.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from examples.oulad.raw_tables import open_mapping
from examples.oulad.source import WITHDRAWALS, OuladError, create_view, data_directory
from feature_repo.files import write_whole
from feature_repo.paths import warehouse_path

DAYS = 30
GROUPS = 10
RESAMPLES = 500

# A student leaves with the last of the term's modules. The warehouse is attached as `warehouse`.
_PREDICTED_AND_TRUE = f"""
with students as (
    select
        customer_id,
        min(presentations.starts_on) as starts_on,
        max(presentations.ends_on) as ends_on,
        case when count(date_unregistration) = count(*)
            then max(moment(presentations.starts_on, date_unregistration)) end as withdrew_at
    from registrations
    inner join presentations using (code_module, code_presentation)
    inner join withdrawals using (code_module, code_presentation, id_student)
    group by customer_id
),

champion as (
    select model_version from warehouse.predictions.model_versions where is_champion
)

select
    customer_id,
    feature_timestamp,
    predictions.churn_risk_30d as risk,
    features.days_since_last_session as idle_days,
    labels.label_churn_risk_30d as lapses,
    coalesce(students.withdrew_at < feature_timestamp + interval {DAYS} days, false) as withdraws,
    students.withdrew_at is not null as withdraws_later
from warehouse.predictions.customer_predictions as predictions
inner join champion using (model_version)
inner join warehouse.features.customer_features as features using (customer_id, feature_timestamp)
inner join warehouse.labels.customer_labels as labels using (customer_id, feature_timestamp)
inner join students using (customer_id)
where
    isodow(feature_timestamp) = 1
    and feature_timestamp >= students.starts_on
    and feature_timestamp + interval {DAYS} days <= students.ends_on
    and (students.withdrew_at is null or students.withdrew_at >= feature_timestamp)
order by feature_timestamp, customer_id
"""

Rows = Mapping[str, np.ndarray]


def compare(rows: Rows) -> dict[str, Any]:
    """Figures of the risk against withdrawal, by population, beside the days since the last session alone."""
    populations = {
        "everyone": np.ones(len(rows["risk"]), dtype=bool),
        "not_yet_lapsed": rows["idle_days"] < DAYS,
    }
    return {
        "within_days": DAYS,
        "mondays": [str(day) for day in (rows["day"].min(), rows["day"].max())],
        "populations": {
            name: _figures({column: values[chosen] for column, values in rows.items()})
            for name, chosen in populations.items()
        },
    }


def read_rows(connection: duckdb.DuckDBPyConnection) -> Rows:
    """One entry a student and Monday. Raises OuladError when the champion has scored none of them."""
    found = connection.execute(_PREDICTED_AND_TRUE).fetchnumpy()
    if not len(found["customer_id"]):
        raise OuladError("The champion has scored no Monday of a presentation: run `make oulad`.")
    lapses = np.ma.filled(np.ma.asarray(found["lapses"], dtype=np.float64), np.nan)
    return {
        "customer": found["customer_id"],
        "day": found["feature_timestamp"].astype("datetime64[D]"),
        "risk": found["risk"].astype(np.float64),
        "idle_days": found["idle_days"].astype(np.float64),
        "lapses": lapses,
        "withdraws": found["withdraws"].astype(np.float64),
        "withdraws_later": found["withdraws_later"].astype(np.float64),
    }


def _figures(rows: Rows) -> dict[str, Any]:
    everyone = np.arange(len(rows["risk"]))
    mondays = [np.flatnonzero(rows["day"] == day) for day in np.unique(rows["day"])]
    by_monday = [_auc(rows, monday, "risk") for monday in mondays]
    return {
        "rows": len(everyone),
        "students": len(np.unique(rows["customer"])),
        "students_who_withdraw": len(np.unique(rows["customer"][rows["withdraws"] == 1.0])),
        "share_withdrawing": float(rows["withdraws"].mean()) if len(everyone) else None,
        "auc": _auc(rows, everyone, "risk"),
        "auc_range": _range(rows, lambda chosen: _auc(rows, chosen, "risk")),
        "auc_mean_of_mondays": _mean(by_monday),
        "auc_withdrawal_until_the_end": _auc(rows, everyone, "risk", "withdraws_later"),
        "auc_days_since_last_session": _auc(rows, everyone, "idle_days"),
        "groups": _groups(rows),
    }


def _auc(rows: Rows, chosen: np.ndarray, score: str, outcome: str = "withdraws") -> float | None:
    outcomes = rows[outcome][chosen]
    if not 0 < outcomes.sum() < len(outcomes):
        return None
    return float(roc_auc_score(outcomes, rows[score][chosen]))


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None


def _range(rows: Rows, figure: Callable[[np.ndarray], float | None]) -> list[float] | None:
    """From the 2.5th to the 97.5th percentile of the figure over resampled students: the Mondays of one
    student are no independent observations.
    """
    random = np.random.default_rng(1)
    _, student = np.unique(rows["customer"], return_inverse=True)
    of_student = np.split(np.argsort(student, kind="stable"), np.cumsum(np.bincount(student))[:-1])
    figures = []
    for _ in range(RESAMPLES):
        drawn = random.integers(0, len(of_student), len(of_student))
        value = figure(np.concatenate([of_student[index] for index in drawn]))
        if value is not None:
            figures.append(value)
    if len(figures) < RESAMPLES / 2:
        return None
    return [float(bound) for bound in np.percentile(figures, [2.5, 97.5])]


def _groups(rows: Rows) -> list[dict[str, Any]]:
    """Groups of equal size by risk: predicted lapse, lapse that came true (where it is known), withdrawal."""
    order = np.argsort(rows["risk"], kind="stable")
    groups = []
    for group in np.array_split(order, min(GROUPS, len(order))):
        lapses = rows["lapses"][group]
        known = ~np.isnan(lapses)
        groups.append(
            {
                "rows": len(group),
                "from": float(rows["risk"][group].min()),
                "to": float(rows["risk"][group].max()),
                "mean_risk": float(rows["risk"][group].mean()),
                "rows_with_lapse_known": int(known.sum()),
                "mean_risk_with_lapse_known": float(rows["risk"][group][known].mean())
                if known.any()
                else None,
                "lapsed": float(lapses[known].mean()) if known.any() else None,
                "withdrew": float(rows["withdraws"][group].mean()),
            }
        )
    return groups


def as_markdown(found: Mapping[str, Any]) -> str:
    """The figures as tables: the populations, and the groups of each."""
    lines = [
        "# Churn risk beside actual withdrawal",
        "",
        f"Mondays from {found['mondays'][0]} to {found['mondays'][1]}, students still registered then: do "
        f"they withdraw within {found['within_days']} days? No feature and no label knows of withdrawal. The "
        "range is of the AUC over resampled students (95 %).",
        "",
        *_markdown_table(_OVERVIEW, [_overview(name, each) for name, each in found["populations"].items()]),
    ]
    for name, figures in found["populations"].items():
        lines += ["", f"## By risk, {name.replace('_', ' ')}", ""]
        lines += _markdown_table(_GROUP, [_group_cells(group) for group in figures["groups"]])
    return "\n".join([*lines, ""])


_OVERVIEW = (
    "population",
    "student Mondays",
    "students",
    "of them withdraw",
    "share a month",
    "AUC",
    "95 %",
    "mean AUC of a Monday",
    "AUC, until the end",
    "AUC, days since last session",
)
_GROUP = ("risk of a lapse", "student Mondays", "withdrew", "lapse known", "mean risk of these", "lapsed")


def _overview(name: str, figures: Mapping[str, Any]) -> list[str]:
    spread = figures["auc_range"]
    return [
        name.replace("_", " "),
        f"{figures['rows']:,}",
        f"{figures['students']:,}",
        f"{figures['students_who_withdraw']:,}",
        _percent(figures["share_withdrawing"]),
        _number(figures["auc"]),
        "–" if spread is None else f"{spread[0]:.3f}–{spread[1]:.3f}",
        _number(figures["auc_mean_of_mondays"]),
        _number(figures["auc_withdrawal_until_the_end"]),
        _number(figures["auc_days_since_last_session"]),
    ]


def _group_cells(group: Mapping[str, Any]) -> list[str]:
    return [
        f"{group['from']:.3f}–{group['to']:.3f}",
        f"{group['rows']:,}",
        _percent(group["withdrew"]),
        f"{group['rows_with_lapse_known']:,}",
        _number(group["mean_risk_with_lapse_known"]),
        _number(group["lapsed"]),
    ]


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---", *("--:" for _ in titles[1:])], *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _tables(found: Mapping[str, Any]) -> list[Table]:
    overview = Table(
        *_OVERVIEW,
        title=f"Churn risk against withdrawal within {found['within_days']} days, students still registered",
    )
    for name, figures in found["populations"].items():
        overview.add_row(*_overview(name, figures))
    groups = Table(*_GROUP, title="By predicted risk, everyone")
    for group in found["populations"]["everyone"]["groups"]:
        groups.add_row(*_group_cells(group))
    return [overview, groups]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.oulad.withdrawal", description=__doc__)
    parser.add_argument("--data", type=Path, help="directory of the data set")
    parser.add_argument("--out", type=Path, required=True, help="where the figures are written")
    parser.add_argument("--students", type=int, help="as given to python -m examples.oulad")
    options = parser.parse_args(arguments)
    try:
        data = data_directory(options.data)
        if not warehouse_path().exists():
            raise OuladError(f"There is no warehouse at {warehouse_path()}: run `make oulad`.")
        with open_mapping(data, options.students) as connection:
            create_view(connection, "withdrawals", WITHDRAWALS, data)
            connection.execute(f"attach '{warehouse_path()}' as warehouse (read_only)")
            found = compare(read_rows(connection))
    except (OuladError, duckdb.IOException) as error:
        print(f"oulad: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in _tables(found):
        console.print(table)
    for name, text in (("json", json.dumps(found, indent=2) + "\n"), ("md", as_markdown(found))):
        write_whole(options.out / f"withdrawal.{name}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
