"""The directory in which the example's own pipeline lives: its raw tables, warehouse, models and stores."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import yaml

from examples.oulad.raw_tables import MAPPING, open_mapping, write_raw_tables
from examples.oulad.source import OuladError
from feature_repo.paths import feature_repo_dir, repository_root
from training.models import SPECS

# Least number of presentation terms one after the other: to fit on, to choose with, to report on.
LEAST_TERMS = 3


@dataclass(frozen=True)
class Workspace:
    """Paths below one directory."""

    root: Path

    @property
    def split(self) -> Path:
        """The blocks of the customers, for `python -m training --split`."""
        return self.root / "split.csv"

    def environment(self) -> dict[str, str]:
        """The variables that point every command of the product here."""
        return {
            "RAW_DATA_DIR": str(self.root / "raw"),
            "SEEDS_DIR": str(self.root / "seeds"),
            "WAREHOUSE_PATH": str(self.root / "warehouse.duckdb"),
            "FEATURE_EXPORT_DIR": str(self.root / "features"),
            "MODELS_DIR": str(self.root / "models"),
            "TRAINING_EXPORT_DIR": str(self.root / "exports"),
            "STREAM_DIR": str(self.root / "stream"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}",
            "FEAST_FS_YAML_FILE_PATH": str(self.root / "feature_store.yaml"),
            "DBT_TARGET_PATH": str(self.root / "target"),
            "DBT_LOG_PATH": str(self.root / "logs"),
            "DBT_PROFILES_DIR": str(repository_root()),
        }


def prepare(data: Path, workspace: Workspace, students: int | None = None) -> tuple[dict[str, int], date]:
    """Map the data set and lay out the workspace anew; returns the rows by raw table and the as-of date.

    What an earlier run built here is removed: it was built from other raw tables. Raises OuladError.
    """
    with open_mapping(data, students) as connection:
        _create_terms(connection)
        as_of = _as_of(connection)
        rows = write_raw_tables(connection, workspace.root / "raw", until=as_of)
        for name in ("features", "models", "mlflow", "feast", "target", "seeds"):
            shutil.rmtree(workspace.root / name, ignore_errors=True)
        for file in workspace.root.glob("warehouse.duckdb*"):
            file.unlink()
        shutil.copytree(repository_root() / "seeds", workspace.root / "seeds")
        _write_csv(connection, "subjects", workspace.root / "seeds" / "subjects.csv")
        _write_csv(connection, "split", workspace.split)
        _write_feast_configuration(workspace)
        return rows, as_of


def _create_terms(connection: duckdb.DuckDBPyConnection) -> None:
    """The terms for the split, from the first on each the next that begins after the one before has ended.

    In the complete data set the presentations of February 2014 overlap those of October 2013 and are left out
    of the training.
    """
    found = connection.execute(
        """
        select code_presentation, min(starts_on) as first, max(ends_on) as last
        from customer_periods group by all order by first
        """
    ).fetchall()
    terms: list[tuple[str, date]] = []
    for name, first, last in found:
        if not terms or first >= terms[-1][1]:
            terms.append((name, last))
    if len(terms) < LEAST_TERMS:
        raise OuladError(
            f"The data hold {len(terms)} complete presentation terms one after the other "
            f"({', '.join(name for name, _ in terms)}), and the split needs {LEAST_TERMS}."
        )
    connection.execute("create table terms (code_presentation varchar, number_from_last integer)")
    connection.executemany(
        "insert into terms values (?, ?)",
        [(name, number) for number, (name, _) in enumerate(reversed(terms), 1)],
    )
    connection.execute(f"create view split as {(MAPPING / 'split.sql').read_text()}")


def _as_of(connection: duckdb.DuckDBPyConnection) -> date:
    """The Monday that the example takes for today: the last by which the longest label can still be read.

    At the very end of the data the last course is over, and there is nobody left to call.
    """
    last = connection.execute("select max(last_day) from split where block = 'report'").fetchall()[0][0]
    day = last - timedelta(days=max(spec.label_days for spec in SPECS))
    return day - timedelta(days=day.weekday())


def _write_csv(connection: duckdb.DuckDBPyConnection, relation: str, file: Path) -> None:
    draft = file.with_suffix(".partial")
    connection.execute(f"copy (from {relation}) to '{str(draft).replace(chr(39), chr(39) * 2)}' (header)")
    draft.replace(file)


def _write_feast_configuration(workspace: Workspace) -> None:
    configuration = yaml.safe_load((feature_repo_dir() / "feature_store.yaml").read_text())
    configuration["registry"]["path"] = str(workspace.root / "feast" / "registry.db")
    configuration["online_store"]["path"] = str(workspace.root / "feast" / "online.db")
    (workspace.root / "feature_store.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
