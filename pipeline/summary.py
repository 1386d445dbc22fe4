"""What a run built, how good it is beside the reference, and where to look next."""

from __future__ import annotations

import json
from functools import partial

import duckdb
from rich.console import Console
from rich.table import Table

from feature_repo.paths import raw_data_dir, warehouse_path
from report import reference
from report.document import number, percent
from report.figures import label_statistics, open_warehouse, segment_mix
from training.reference import REFERENCES as MODEL_REFERENCES

RELATIONS = (
    "features.customer_features",
    "features.feature_catalog",
    "labels.customer_labels",
    "predictions.customer_predictions",
    "predictions.model_versions",
    "marts.customer_health_current",
    "quarantine.rejected_rows",
)
# The other labels are shares.
_LABEL_FORMS = {"label_health_score": partial(number, digits=1), "label_session_velocity": number}


def show_summary(console: Console, report: str = "`make report`") -> None:
    """Print the state of the warehouse at WAREHOUSE_PATH; `report` is what shows its data and models in full.

    Raises ReportError when it cannot be read.
    """
    with open_warehouse(warehouse_path()) as connection:
        console.print(_relations(connection))
        console.print(_tiers(connection))
        console.print(_training_data(connection))
        console.print(_model_quality(connection))
    console.print(
        f"The warehouse is {warehouse_path()}: start with marts.customer_health_current. {report} "
        "shows data and models in full. README.md has a query for each table, the look-up of a customer "
        "online, and how to bring your own data; docs/decisions.md says why each definition is as it is.",
        highlight=False,
    )


def _relations(connection: duckdb.DuckDBPyConnection) -> Table:
    table = Table("relation", "rows", "latest", title="Built")
    for relation in RELATIONS:
        columns = {row[0] for row in connection.execute(f"describe {relation}").fetchall()}
        latest = "max(feature_timestamp)::date" if "feature_timestamp" in columns else "null"
        rows, newest = connection.execute(f"select count(*), {latest} from {relation}").fetchall()[0]
        table.add_row(relation, f"{rows:,}", str(newest or "–"))
    return table


def _tiers(connection: duckdb.DuckDBPyConnection) -> Table:
    table = Table("tier", "customers", "churn risk 30 d", "action", title="Predicted health tiers today")
    rows = connection.execute(
        """
        select current.health_tier, count(*), avg(current.churn_risk_30d), max(tiers.action)
        from marts.customer_health_current as current
        inner join reference.health_tiers as tiers on current.health_tier = tiers.tier
        group by current.health_tier
        order by max(tiers.min_score) desc
        """
    ).fetchall()
    for tier, customers, risk, action in rows:
        table.add_row(tier, f"{customers:,}", f"{risk:.2f}", action)
    return table


def _training_data(connection: duckdb.DuckDBPyConnection) -> Table:
    compared = reference.applies_to(raw_data_dir())
    table = Table("figure", "achieved", title="Training data: the last year of known outcomes")
    if compared:
        table.add_column("reference")

    def add(figure: str, achieved: str, expected: str) -> None:
        table.add_row(figure, achieved, *([expected] if compared else []))

    for segment, share in segment_mix(connection).items():
        add(f"segment {segment}", percent(share), percent(reference.SEGMENT_SHARES[segment]))
    for label, found in label_statistics(connection).items():
        shown = _LABEL_FORMS.get(label, percent)
        add(label, shown(found["mean"]), shown(reference.LABELS[label]))
    return table


def _model_quality(connection: duckdb.DuckDBPyConnection) -> Table:
    compared = reference.applies_to(raw_data_dir())
    table = Table(
        "model", "figure", "everyone", "not yet lapsed", "baseline", "best possible",
        title="Champion on held-out customers and weeks",
    )  # fmt: skip
    if compared:
        table.add_column("reference")
    champion = connection.execute(
        "select held_out from predictions.model_versions where is_champion"
    ).fetchall()
    if not champion:
        return table
    held_out = json.loads(champion[0][0])
    for name, expected in MODEL_REFERENCES.items():
        figures = held_out.get(name)
        if figures is None:  # an optional model that these data could not train
            continue
        table.add_row(
            name,
            expected.figure,
            *(
                _figure(source, population, expected.figure)
                for source, population in (
                    (figures, "everyone"),
                    (figures, "not_yet_lapsed"),
                    (figures["baseline"], "everyone"),
                    (figures.get("best_possible"), "everyone"),
                )
            ),
            *([f"{expected.low:g}–{expected.high:g}"] if compared else []),
        )
    return table


def _figure(source: dict | None, population: str, figure: str) -> str:
    value = ((source or {}).get(population) or {}).get(figure)
    return "–" if value is None else f"{value:.3f}"
