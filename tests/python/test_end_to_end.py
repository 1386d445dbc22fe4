"""The whole product on a small marketplace, as `make run` and `make daily` do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest
from test_feast import write_configuration

import scoring
from feature_repo.catalog import load_catalog
from feature_repo.check import column_differences, sample_pairs, value_differences, warehouse_columns
from feature_repo.store import apply, open_store, registered_views
from pipeline.readme import queries
from scoring.release import MODEL_NAMES, read_champion

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = (
    "features.customer_features",
    "features.feature_catalog",
    *(f"features.{family.relation}" for family in load_catalog().families),
    "labels.customer_labels",
    "predictions.customer_predictions",
    "predictions.model_versions",
    "marts.customer_health_current",
    "marts.health_tier_summary",
    "marts.health_tier_transitions",
    "marts.cohort_retention",
    "marts.prediction_outcomes",
    "marts.market_supply_demand",
    "quarantine.rejected_rows",
)


@dataclass(frozen=True)
class Product:
    """What a run left: its folder, the environment that points there, and what it printed."""

    folder: Path
    environment: dict[str, str]
    printed: str

    def rows(self, query: str) -> list[tuple]:
        with duckdb.connect(self.environment["WAREHOUSE_PATH"], read_only=True) as connection:
            return connection.execute(query).fetchall()


def command(environment: dict[str, str], module: str, *arguments: str) -> str:
    """Run `python -m module arguments` from the root; returns what it printed. It must succeed."""
    run = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{module} {arguments}:\n{run.stdout[-6000:]}\n{run.stderr[-3000:]}"
    return run.stdout


def simulate(folder: Path, end: str) -> None:
    options = ["--customers=700", "--seed=5", "--start=2024-07-01", f"--end={end}", f"--out={folder}"]
    command({}, "simulator", *options, "--no-report", "--quiet")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    folder = tmp_path_factory.mktemp("product")
    simulate(folder / "raw", "2026-07-01")
    environment = {
        "RAW_DATA_DIR": str(folder / "raw"),
        "WAREHOUSE_PATH": str(folder / "warehouse.duckdb"),
        "FEATURE_EXPORT_DIR": str(folder / "features"),
        "MODELS_DIR": str(folder / "models"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "FEAST_FS_YAML_FILE_PATH": str(write_configuration(folder)),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "DBT_PROFILES_DIR": str(ROOT),
    }
    return Product(folder, environment, command(environment, "pipeline", "run"))


def test_run_builds_every_public_relation_and_prints_a_summary(product: Product) -> None:
    empty = [relation for relation in PUBLIC if product.rows(f"select count(*) from {relation}") == [(0,)]]
    assert empty == []
    for words in ("Training data", "Champion on held-out", "Predicted health tiers", "dbt build", "Time"):
        assert words in product.printed


def test_every_query_of_the_readme_runs(product: Product) -> None:
    with scoring.connect(
        product.environment["WAREHOUSE_PATH"], product.environment["MODELS_DIR"]
    ) as connection:
        for query in queries((ROOT / "README.md").read_text()):
            assert connection.execute(query).fetchall(), query


def test_features_are_in_the_order_of_the_catalog(product: Product) -> None:
    columns = [row[0] for row in product.rows("describe features.customer_features")]
    assert columns == ["customer_id", "feature_timestamp", *load_catalog().names]
    named = product.rows("select feature_name from features.feature_catalog order by position")
    assert [row[0] for row in named] == list(load_catalog().names)


def test_warehouse_offline_and_online_agree_on_500_pairs(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in product.environment.items():
        monkeypatch.setenv(name, value)
    # A store of its own: the comparison materializes at one time after another, from the first snapshot on.
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(write_configuration(tmp_path)))
    store = open_store()
    apply(store)
    warehouse = Path(product.environment["WAREHOUSE_PATH"])
    assert column_differences(registered_views(store), warehouse_columns(warehouse)) == []
    pairs = sample_pairs(warehouse, moments=10, customers=50)
    assert len(pairs) == 500
    assert value_differences(store, warehouse, pairs) == []


def test_predictions_are_the_boosters_to_the_last_bit(product: Product) -> None:
    champion = read_champion(Path(product.environment["MODELS_DIR"]))
    assert champion is not None
    names = load_catalog().names
    with duckdb.connect(product.environment["WAREHOUSE_PATH"], read_only=True) as connection:
        stored = connection.execute(
            f"""
            select {", ".join(f"predictions.{name}" for name in MODEL_NAMES)}, {", ".join(names)}
            from predictions.customer_predictions as predictions
            inner join features.customer_features using (customer_id, feature_timestamp)
            """
        ).fetchnumpy()
    features = np.column_stack([stored[name].astype(np.float64) for name in names])
    expected = champion.predict(features, names)
    for name in ("churn_risk_14d", "churn_risk_30d", "health_score", "session_velocity"):
        assert np.array_equal(stored[name], expected[name]), name
    newcomers = stored["total_sessions_lifetime"] == 0
    first = np.ma.filled(stored["first_session_success"].astype(np.float64), np.nan)
    assert np.array_equal(first[newcomers], expected["first_session_success"][newcomers])
    assert np.isnan(first[~newcomers]).all()
    assert newcomers.any()


def test_exports_hold_every_customer_once_and_are_the_same_in_every_process(product: Product) -> None:
    exported = []
    for name in ("exports", "again"):
        place = product.folder / name
        command(product.environment, "training", "export", f"--to={place}")
        exported.append({path.name: path.read_bytes() for path in place.iterdir()})
    assert exported[0] == exported[1]
    manifest = json.loads(exported[0]["manifest.json"])
    # As 7,000, 1,500 and 1,500 of 10,000: nobody of the marketplace is missing.
    assert manifest["sizes"] == {"train": 490, "validation": 105, "test": 105}
    with duckdb.connect() as connection:
        simulated = connection.execute(
            f"select distinct customer_id from '{product.folder}/raw/raw_customers/*.parquet'"
            " where customer_id < 'C98'"  # the others break the contract
        ).fetchall()
    records = [json.loads(line) for line in exported[0]["full_dataset.jsonl"].splitlines()]
    assert sorted(record["customer_id"] for record in records) == sorted(row[0] for row in simulated)
    labels = [name for name in records[0] if name.startswith("label_")]
    names = load_catalog().names
    assert len(names) == 59 and len(labels) == 5
    for record in records:
        assert list(record) == ["customer_id", "segment", *names, *labels]
        assert {name for name, value in record.items() if value is None} <= set(labels)
    complete = [name for name in labels if name != "label_first_session_success"]
    assert 0.9 < np.mean([all(record[name] is not None for name in complete) for record in records]) < 1


def test_daily_adds_one_day_and_repeats_safely(product: Product) -> None:
    before = product.rows("select * from features.customer_features order by all")
    simulate(product.folder / "next", "2026-07-02")
    environment = product.environment | {"RAW_DATA_DIR": str(product.folder / "next")}
    counts = []
    for _ in range(2):
        command(environment, "pipeline", "daily", "--as-of=2026-07-02")
        counts.append(
            product.rows(
                """
                select
                    (select count(*) from features.customer_features),
                    (select count(*) from predictions.customer_predictions),
                    (
                        select count(*) from marts.customer_health_current
                        where feature_timestamp = '2026-07-02'
                    )
                """
            )
        )
    assert counts[0] == counts[1]
    assert counts[0][0][2] > 0
    assert (
        product.rows(
            "select * from features.customer_features where feature_timestamp < '2026-07-02' order by all"
        )
        == before
    )
    online = command(environment, "feature_repo", "check", "--values=50")
    assert online
    newest = product.rows("select max(feature_timestamp) from predictions.customer_predictions")
    assert newest == [(datetime(2026, 7, 2, tzinfo=UTC).replace(tzinfo=None),)]
