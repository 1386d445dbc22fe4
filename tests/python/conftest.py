"""Fixtures of the Python tests: warehouses that dbt builds from small raw directories."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks.redis_server import NoRedisError, redis_server

ROOT = Path(__file__).resolve().parents[2]
DBT = Path(sys.executable).parent / "dbt"
SELECTION = ("path:models/staging", "+path:models/features", "+customer_labels", "+rejected_rows")

Record = dict[str, Any]


@dataclass(frozen=True)
class Warehouse:
    """A DuckDB file that dbt wrote."""

    path: Path

    def rows(self, query: str) -> list[Record]:
        """The rows of a query as dicts."""
        with duckdb.connect(str(self.path), read_only=True) as connection:
            result = connection.execute(query)
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def keyed(self, relation: str) -> dict[tuple[str, datetime], Record]:
        """The rows of a table by (customer_id, feature_timestamp), which must be unique."""
        rows = self.rows(f"select * from {relation}")
        keyed = {(row.pop("customer_id"), row.pop("feature_timestamp")): row for row in rows}
        assert len(keyed) == len(rows), f"{relation} holds a key twice"
        return keyed


def dbt_build(
    raw: Path,
    work: Path,
    *,
    warehouse: Path | None = None,
    select: Iterable[str] = SELECTION,
    options: Iterable[str] = (),
    check: bool = True,
    **variables: Any,
) -> tuple[Warehouse, subprocess.CompletedProcess[str]]:
    """Run `dbt build` on a raw directory, everything that it writes below `work`.

    Without a `warehouse` the file is a new one; with one, the build is incremental. Dates among the
    variables are given to dbt as YYYY-MM-DD.
    """
    path = warehouse or work / "warehouse.duckdb"
    command, environment = dbt_command(raw, work, path, select, options, variables)
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if check and run.returncode != 0:
        raise AssertionError(f"dbt build failed on {raw}:\n{run.stdout[-6000:]}\n{run.stderr[-2000:]}")
    return Warehouse(path), run


def dbt_command(
    raw: Path,
    work: Path,
    warehouse: Path,
    select: Iterable[str] = SELECTION,
    options: Iterable[str] = (),
    variables: dict[str, Any] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of such a build."""
    work.mkdir(parents=True, exist_ok=True)
    texts = {
        name: str(value.date()) if isinstance(value, date) else value
        for name, value in (variables or {}).items()
    }
    environment = os.environ | {
        "RAW_DATA_DIR": str(raw),
        "WAREHOUSE_PATH": str(warehouse),
        "FEATURE_EXPORT_DIR": str(work / "export"),
        "DBT_TARGET_PATH": str(work / "target"),
        "DBT_LOG_PATH": str(work / "logs"),
        "DBT_PROFILES_DIR": str(ROOT),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
    arguments = ["--project-dir", str(ROOT), "--vars", json.dumps(texts), "--select", *select, *options]
    return [str(DBT), "build", *arguments], environment


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`made_once(name, make)`: a directory that `make(directory)` fills once, whichever xdist worker comes
    first.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once"
    shared.mkdir(exist_ok=True)

    def directory(name: str, make: Callable[[Path], None]) -> Path:
        place, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                place.mkdir()  # a second attempt after a failure fails here, and says so
                make(place)
                done.touch()
        return place

    return directory


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Redis server that this test run started, empty at first; skips where none can be had."""
    try:
        with redis_server(tmp_path_factory.mktemp("redis")) as port:
            yield port
    except NoRedisError as error:
        pytest.skip(f"no Redis to test with: {error}")
