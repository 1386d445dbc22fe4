"""What a run built, how good it is beside the reference, and where to look next."""

from __future__ import annotations

import json

import duckdb
from rich.console import Console
from rich.table import Table

from feature_repo.paths import raw_data_dir, warehouse_path
from simulator.calibration import REFERENCE as DATA_REFERENCE
from simulator.writer import NOTE
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

# The last year alone: the reference describes customers of a running marketplace, not of its first months.
_TRAINING_DATA = """
with recent as (
    select * from labels.customer_labels
    where
        dayofweek(feature_timestamp) = 1
        and feature_timestamp > (select max(feature_timestamp) - interval 1 year from labels.customer_labels)
)

select
    100 * avg(cast(segment = 'thriving' as integer)),
    100 * avg(cast(segment = 'healthy' as integer)),
    100 * avg(cast(segment = 'at_risk' as integer)),
    100 * avg(cast(segment = 'churned' as integer)),
    100 * avg(label_churn_risk_14d),
    100 * avg(label_churn_risk_30d),
    avg(label_health_score),
    avg(label_session_velocity),
    100 * avg(label_first_session_success)
from recent
"""
_TRAINING_DATA_FIGURES = (
    ("segment thriving", "{:.1f} %"),
    ("segment healthy", "{:.1f} %"),
    ("segment at risk", "{:.1f} %"),
    ("segment churned", "{:.1f} %"),
    ("label churn 14 days", "{:.1f} %"),
    ("label churn 30 days", "{:.1f} %"),
    ("label health score", "{:.1f}"),
    ("label sessions a week", "{:.2f}"),
    ("first-session success", "{:.1f} %"),
)


def show_summary(console: Console) -> None:
    """Print the state of the warehouse at WAREHOUSE_PATH. Raises duckdb.Error when it cannot be read."""
    with duckdb.connect(str(warehouse_path()), read_only=True) as connection:
        console.print(_relations(connection))
        console.print(_tiers(connection))
        console.print(_training_data(connection))
        console.print(_model_quality(connection))
    console.print(
        f"The warehouse is {warehouse_path()}: start with marts.customer_health_current. README.md has a "
        "query for each table, the look-up of a customer online, and how to bring your own data; "
        "docs/decisions.md says why each definition is as it is.",
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
    # Reference figures of a marketplace say something of a simulated one, and nothing of anyone's own data.
    compared = (raw_data_dir() / NOTE).exists()
    table = Table("figure", "achieved", title="Training data: Mondays of the last year")
    if compared:
        table.add_column("reference")
    values = connection.execute(_TRAINING_DATA).fetchall()[0]
    for (name, form), value in zip(_TRAINING_DATA_FIGURES, values, strict=True):
        cells = [name, form.format(value) if value is not None else "–"]
        table.add_row(*cells, *([DATA_REFERENCE[name]] if compared else []))
    return table


def _model_quality(connection: duckdb.DuckDBPyConnection) -> Table:
    table = Table(
        "model", "figure", "everyone", "not yet lapsed", "baseline", "best possible", "reference",
        title="Champion on held-out customers and weeks",
    )  # fmt: skip
    champion = connection.execute(
        "select held_out from predictions.model_versions where is_champion"
    ).fetchall()
    if not champion:
        return table
    held_out = json.loads(champion[0][0])
    for name, reference in MODEL_REFERENCES.items():
        figures = held_out.get(name)
        if figures is None:  # an optional model that these data could not train
            continue
        table.add_row(
            name,
            reference.figure,
            *(
                _figure(source, population, reference.figure)
                for source, population in (
                    (figures, "everyone"),
                    (figures, "not_yet_lapsed"),
                    (figures["baseline"], "everyone"),
                    (figures.get("best_possible"), "everyone"),
                )
            ),
            f"{reference.low:g}–{reference.high:g}",
        )
    return table


def _figure(source: dict | None, population: str, figure: str) -> str:
    value = ((source or {}).get(population) or {}).get(figure)
    return "–" if value is None else f"{value:.3f}"
