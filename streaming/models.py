"""The nightly build's own statements, as dbt compiles them from the models for a warehouse that holds
nothing yet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from feature_repo.paths import repository_root
from streaming.errors import StreamError

FEATURES = "customer_features"
PREDICTIONS = "customer_predictions"
SNAPSHOTS = "int_snapshots"
"""Given by the stream, which takes one snapshot; all that stands before it in the graph (as-of date, share
of rejected rows) is about the run as a whole.
"""


@dataclass(frozen=True)
class Model:
    """A dbt model: the relation that it makes and the SELECT that makes it."""

    schema: str
    name: str
    sql: str
    is_view: bool
    is_static: bool
    """Whether nothing of it hangs on the raw tables."""

    @property
    def relation(self) -> str:
        """Schema and name."""
        return f"{self.schema}.{self.name}"

    def statement(self, sql: str | None = None) -> str:
        """The statement that makes the relation, from another SELECT when one is given."""
        kind = "table" if sql or not self.is_view else "view"
        return f"create or replace {kind} {self.relation} as {sql or self.sql}"


@dataclass(frozen=True)
class Models:
    """What features and predictions of a snapshot are made of."""

    models: tuple[Model, ...]
    """In an order in which they can be built."""
    seeds: tuple[str, ...]
    """The reference tables that they read, with their schema."""
    schemas: frozenset[str]
    grace_hours: int
    """``arrival_grace_hours``: how long after midnight a load still belongs to that midnight."""


def compile_models(work: Path, variables: Mapping[str, Any] | None = None) -> Models:
    """Compile the dbt project, in ``work``, and read what it says. Raises ``StreamError`` when dbt does not
    succeed.
    """
    root = repository_root()
    run = subprocess.run(
        [
            str(Path(sys.executable).parent / "dbt"),
            *("compile", "--quiet", "--project-dir", str(root)),
            *("--select", f"+{FEATURES}", f"+{PREDICTIONS}", "--vars", json.dumps(dict(variables or {}))),
        ],
        cwd=root,
        # A database in memory: dbt locks no warehouse, and finds none of its tables, so every statement is
        # that of a first run.
        env={
            "DBT_PROFILES_DIR": str(root),
            **os.environ,
            "WAREHOUSE_PATH": ":memory:",
            "DBT_TARGET_PATH": str(work / "target"),
            "DBT_LOG_PATH": str(work / "logs"),
            "FEATURE_EXPORT_DIR": str(work / "exports"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise StreamError(
            f"dbt cannot compile the models: {' '.join((run.stdout + run.stderr).split())[-2000:]}"
        )
    project = yaml.safe_load((root / "dbt_project.yml").read_bytes())["vars"]
    return read_models(
        json.loads((work / "target" / "manifest.json").read_bytes()), project | dict(variables or {})
    )


def read_models(manifest: Mapping[str, Any], variables: Mapping[str, Any]) -> Models:
    """The models in a manifest that ``dbt compile`` wrote with these variables."""
    nodes, project = manifest["nodes"], manifest["metadata"]["project_name"]
    order: list[str] = []
    from_raw: dict[str, bool] = {}

    def visit(name: str) -> None:
        if name in from_raw:
            return
        node = nodes.get(name)
        parents = node["depends_on"].get("nodes", []) if node and node["name"] != SNAPSHOTS else []
        for parent in parents:
            visit(parent)
        from_raw[name] = node is None or node["name"] == SNAPSHOTS or any(from_raw[each] for each in parents)
        if node is not None and node["name"] != SNAPSHOTS:
            order.append(name)

    visit(f"model.{project}.{FEATURES}")
    visit(f"model.{project}.{PREDICTIONS}")
    chosen = [nodes[name] for name in order]
    return Models(
        models=tuple(
            Model(
                schema=node["schema"],
                name=node["alias"],
                sql=node["compiled_code"],
                is_view=node["config"]["materialized"] == "view",
                is_static=not from_raw[node["unique_id"]],
            )
            for node in chosen
            # What is ephemeral is part of the statements that read it.
            if node["resource_type"] == "model" and node["config"]["materialized"] != "ephemeral"
        ),
        seeds=tuple(
            f"{node['schema']}.{node['alias']}" for node in chosen if node["resource_type"] == "seed"
        ),
        schemas=frozenset(node["schema"] for node in chosen)
        | {nodes[f"model.{project}.{SNAPSHOTS}"]["schema"], "raw"},
        grace_hours=int(variables["arrival_grace_hours"]),
    )
