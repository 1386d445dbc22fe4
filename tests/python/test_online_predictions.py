"""What apps look up is what the warehouse predicts: the row of the champion, to the last bit.

The features are laid by hand and the releases are small, so that dbt builds the predictions alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
from conftest import ROOT
from test_feast import write_configuration
from test_materialization import contents
from test_scoring import (
    SNAPSHOTS,
    TODAY,
    Project,
    project_in,
    publish,
    random_features,
    small_release,
    trained_model,
)

from feature_repo import check
from feature_repo.paths import feature_export_dir
from feature_repo.predictions import PREDICTIONS_RELATION, PREDICTIONS_SERVICE, load_predictions
from feature_repo.store import Materialization, apply, materialize, open_store
from scoring.release import set_champion

CUSTOMERS = 300
STRANGER = "nobody"
COLUMNS = ", ".join(load_predictions().names)
OF_THE_MART = f"select {COLUMNS} from marts.customer_health_current order by customer_id"
NEWEST = SNAPSHOTS[-1]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_in(tmp_path_factory.mktemp("online")) as project:
        os.environ["FEAST_FS_YAML_FILE_PATH"] = str(write_configuration(project.work))
        yield project


def bits(table: pa.Table) -> pa.Table:
    """The table with its doubles as integers of the same bits, so that equal means the same to the last."""
    return pa.table(
        [
            column.combine_chunks().view(pa.int64()) if pa.types.is_float64(column.type) else column
            for column in table.combine_chunks().columns
        ],
        table.column_names,
    )


def in_warehouse(project: Project, query: str) -> pa.Table:
    with duckdb.connect(str(project.path), read_only=True) as connection:
        return bits(connection.sql(query).to_arrow_table())


def online(customers: list[str]) -> pa.Table:
    """What a client that has just opened the store is served."""
    return bits(check.online_values(open_store(), customers, PREDICTIONS_SERVICE))


def numbered(first: int, last: int) -> list[str]:
    return [f"C{number:07d}" for number in range(first, last)]


def score(project: Project) -> None:
    """Score and export what is due, and rebuild the mart; the dbt tests have their turn in test_scoring."""
    models = "health_tiers", "model_versions", "customer_predictions", "customer_health_current"
    assert project.dbt("build", "--select", *models, "--exclude-resource-type", "test")[0]


def score_and_materialize(project: Project) -> Materialization:
    """A night's second half."""
    score(project)
    return materialize(open_store())


def export_features(project: Project) -> None:
    """What the hook of customer_features does, whose rows are laid by hand here."""
    assert project.dbt(
        "run-operation", "export_features", "--args", "{relation: features.customer_features}"
    )[0]


KILLED = """
import os
import feature_repo.dbt_plugin
feature_repo.dbt_plugin.put_in_place = lambda partial, instead_of: os._exit(9)
from dbt.cli.main import cli
cli()
"""


def kill_an_export() -> None:
    """Export the features, killed when the first file is written and not in its place."""
    arguments = ["run-operation", "export_features", "--args", "{relation: features.customer_features}"]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=ROOT, capture_output=True, check=False
    )
    assert run.returncode == 9, run.stdout


def exported_versions() -> dict[datetime, list[str]]:
    """The versions exported for each snapshot; no customer may be in there twice."""
    files = str(feature_export_dir() / PREDICTIONS_RELATION / "*.parquet")
    with duckdb.connect() as connection:
        twice = connection.execute(
            "select customer_id from read_parquet(?) "
            "qualify count(*) over (partition by customer_id, feature_timestamp) > 1",
            [files],
        ).fetchall()
        assert twice == []
        return dict(
            connection.execute(
                "select feature_timestamp, array_agg(distinct model_version) from read_parquet(?) group by 1",
                [files],
            ).fetchall()
        )


def test_the_life_of_the_predictions_online(project: Project) -> None:
    """No model, champion, repeat, new champion, roll-back, a night on which some left, a champion that cannot
    score."""
    matrix = random_features(CUSTOMERS, seed=20)
    project.lay(matrix, *SNAPSHOTS)
    everybody = numbered(0, CUSTOMERS)

    # No model: everything works, features are served, predictions are null.
    score(project)
    export_features(project)
    store = open_store()
    apply(store)
    assert materialize(store).customers == CUSTOMERS
    nothing = online([*everybody, STRANGER])
    assert {column.null_count for column in nothing.columns} == {CUSTOMERS + 1}
    features = check.online_values(store, everybody)
    assert {column.null_count for column in features.columns} == {0}
    assert contents(store)[PREDICTIONS_RELATION] == []

    # The first champion: online is the row of the mart, nulls included; a stranger has none.
    # Its churn model has two features, so there is no third reason.
    churn = trained_model("churn_risk_30d", seed=3, width=2)
    publish(small_release("v1", churn_risk_30d=churn), project.models)
    score_and_materialize(project)
    first = online(everybody)
    assert first.equals(in_warehouse(project, OF_THE_MART))
    assert set(first["model_version"].to_pylist()) == {"v1"}
    assert 0 < first["first_session_success"].null_count < CUSTOMERS
    assert first["reason_3"].null_count == first["reason_3_effect"].null_count == CUSTOMERS
    assert first["reason_2"].null_count == 0
    assert {column.null_count for column in online([STRANGER]).columns} == {1}
    assert exported_versions() == {snapshot: ["v1"] for snapshot in SNAPSHOTS[1:]}

    # A repeat changes no byte, neither in the export nor online.
    files = {file: file.read_bytes() for file in feature_export_dir().glob("*/*")}
    rows = contents(open_store())
    assert score_and_materialize(project).withdrawn == 0
    assert {file: file.read_bytes() for file in feature_export_dir().glob("*/*")} == files
    assert contents(open_store()) == rows

    # A new champion of the same day takes over with the next materialization; until then v1 is served.
    publish(small_release("v2"), project.models)
    score(project)
    assert online(everybody).equals(first)
    materialize(open_store())
    second = online(everybody)
    assert second.equals(in_warehouse(project, OF_THE_MART))
    assert set(second["model_version"].to_pylist()) == {"v2"}
    assert second["reason_3"].null_count == 0
    before = {snapshot: ["v1"] for snapshot in SNAPSHOTS[1:-1]}
    assert exported_versions() == before | {NEWEST: ["v2"]}

    # Taken back, v1 is served again.
    set_champion(project.models, "v1")
    score_and_materialize(project)
    assert online(everybody).equals(first)
    before[NEWEST] = ["v1"]

    # A night of v2 on which the last hundred are no longer in scope: their last row is in force for a week.
    set_champion(project.models, "v2")
    project.lay(matrix[: CUSTOMERS - 100], TODAY)
    kill_an_export()
    assert len(list(feature_export_dir().glob("*/*.partial"))) == 1
    assert materialize(open_store()).as_of.replace(tzinfo=None) == NEWEST, "half a file is none"
    export_features(project)
    assert list(feature_export_dir().glob("*/*.partial")) == []
    score_and_materialize(project)
    stay, left = numbered(0, CUSTOMERS - 100), numbered(CUSTOMERS - 100, CUSTOMERS)
    assert online(stay).equals(in_warehouse(project, OF_THE_MART))
    assert online(left).equals(first.slice(CUSTOMERS - 100))

    # And is gone afterwards.
    later = NEWEST + timedelta(days=8)
    project.lay(matrix[: CUSTOMERS - 100], later)
    export_features(project)
    done = score_and_materialize(project)
    assert (done.as_of.replace(tzinfo=None), done.customers, done.withdrawn) == (later, CUSTOMERS - 100, 100)
    last = online(stay)
    assert last.equals(in_warehouse(project, OF_THE_MART))
    assert {column.null_count for column in online(left).columns} == {len(left)}

    # A champion that has nothing to score at the newest snapshot leaves the former's row in service.
    publish(small_release("v3", trained_until=later), project.models)
    score_and_materialize(project)
    assert online(stay).equals(last)
    assert exported_versions() == before | {TODAY: ["v2"], later: ["v2"]}
    assert check.agreement_now(open_store(), project.path, done.as_of, 50) == []
