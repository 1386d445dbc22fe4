"""The files that Feast reads hold every row of customer_features once, whatever the nights were like."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from test_online_predictions import export_features, kill_an_export
from test_scoring import Project, project_in, random_features

from feature_repo.catalog import WIDE_RELATION

CUSTOMERS = 20
FIRST_BUILD = [datetime(2025, 3, 3) + timedelta(weeks=week) for week in range(4)]
DAY = timedelta(days=1)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path) as project:
        yield project


def lay(project: Project, *snapshots: datetime) -> None:
    for snapshot in snapshots:
        project.lay(random_features(CUSTOMERS, seed=snapshot.toordinal()), snapshot)


def files(project: Project) -> dict[str, Path]:
    return {path.stem: path for path in (project.work / "export" / WIDE_RELATION).glob("*.parquet")}


def export(project: Project) -> set[str]:
    """Export as a night does; the names of the files that it wrote."""
    before = {name: path.stat().st_mtime_ns for name, path in files(project).items()}
    export_features(project)
    everything = "select * from {} order by customer_id, feature_timestamp"
    exported = everything.format(f"read_parquet('{project.work}/export/{WIDE_RELATION}/*.parquet')")
    with duckdb.connect() as connection:
        assert connection.execute(exported).fetchall() == project.rows(
            everything.format("features.customer_features")
        )
    return {name for name, path in files(project).items() if before.get(name) != path.stat().st_mtime_ns}


def test_every_row_is_in_one_file(project: Project) -> None:
    """A first build, a night, a killed one, snapshots of long ago, a repeated night, a lost file."""
    lay(project, *FIRST_BUILD)
    assert export(project) == {"2025-03-24"}
    lay(project, datetime(2025, 3, 25))
    assert export(project) == {"2025-03-25"}

    # Of a night whose export did not come about, the next one makes up.
    lay(project, datetime(2025, 3, 26))
    kill_an_export()
    lay(project, datetime(2025, 3, 27))
    assert export(project) == {"2025-03-27"}

    # Snapshots that are older than all files, and older than some, come with the next night.
    lay(project, datetime(2025, 2, 24), datetime(2025, 3, 20), datetime(2025, 3, 28))
    assert export(project) == {"2025-03-28"}
    content = files(project)["2025-03-28"].read_bytes()
    assert export(project) == {"2025-03-28"}
    assert files(project)["2025-03-28"].read_bytes() == content
    lay(project, datetime(2025, 3, 29))
    assert export(project) == {"2025-03-29"}

    # What someone removed is written again.
    files(project)["2025-03-27"].unlink()
    assert export(project) == {"2025-03-29"}


def test_a_night_does_not_open_the_files_of_earlier_nights(project: Project) -> None:
    """There may be hundreds; it opens that of the first build, whose snapshots have no files of their own."""
    lay(project, *FIRST_BUILD)
    export(project)
    nights = [FIRST_BUILD[-1] + night * DAY for night in (1, 2, 3)]
    for night in nights:
        lay(project, night)
        export(project)
    closed = [files(project)[str(night.date())] for night in nights[:-1]]
    contents = [path.read_bytes() for path in closed]
    for path in closed:
        path.write_bytes(b"not a Parquet file")
    lay(project, nights[-1] + DAY)
    export_features(project)
    for path, content in zip(closed, contents, strict=True):
        path.write_bytes(content)
    assert export(project) == {str((nights[-1] + DAY).date())}
