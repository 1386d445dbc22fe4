"""Everything that a report is made from, opened and computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from feature_repo.catalog import FeatureCatalog, load_catalog
from report import models, quality, reference
from report.figures import open_warehouse
from report.models import Judged
from scoring.release import Release


@dataclass(frozen=True)
class Sources:
    """All that a report is made from. `judged` is None when no model was ever trained."""

    warehouse: duckdb.DuckDBPyConnection
    catalog: FeatureCatalog
    variables: Mapping[str, Any]
    raw_dir: Path
    exports_dir: Path
    judged: Judged | None
    has_truth: bool
    reference_applies: bool
    checks: Sequence[quality.Check]
    ranges: Sequence[quality.Range]

    @property
    def release(self) -> Release | None:
        """The champion."""
        return None if self.judged is None else self.judged.release

    @property
    def active(self) -> str:
        """The SQL condition of not yet lapsed."""
        return f"days_since_last_session < {int(self.variables['lapse_days'])}"


@contextmanager
def open_sources(
    warehouse: Path, models_dir: Path, raw_dir: Path, exports_dir: Path, progress: Callable[[str], None]
) -> Iterator[Sources]:
    """The sources of a report, with the warehouse open for reading; `progress` is told of each step.

    Raises ReportError (no warehouse), ReleaseError or CatalogError.
    """
    catalog = load_catalog()
    variables = quality.project_variables()
    with open_warehouse(warehouse) as connection:
        progress("ranges and checks")
        ranges = quality.feature_ranges(connection, catalog, variables)
        checks = quality.checks(connection, catalog, variables, ranges)
        progress("models")
        judged = models.judge_champion(connection, models_dir, raw_dir)
        progress("content")
        yield Sources(
            warehouse=connection,
            catalog=catalog,
            variables=variables,
            raw_dir=raw_dir,
            exports_dir=exports_dir,
            judged=judged,
            has_truth=bool(list(raw_dir.glob("truth/*.parquet"))),
            reference_applies=reference.applies_to(raw_dir),
            checks=checks,
            ranges=ranges,
        )
