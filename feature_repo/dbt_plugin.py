"""The dbt-duckdb plugin that prepares the folders of the feature exports (profiles.yml).

SQL cannot make a directory, and `COPY` (macros/export.sql) needs one a family and one for the predictions.
"""

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from feature_repo.catalog import load_catalog
from feature_repo.paths import feature_export_dir
from feature_repo.predictions import PREDICTIONS_RELATION


class Plugin(BasePlugin):
    """Makes the directories that macros/export.sql writes to."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Create one directory a feature family, and that of the predictions, below FEATURE_EXPORT_DIR."""
        for relation in (*(family.relation for family in load_catalog().families), PREDICTIONS_RELATION):
            (feature_export_dir() / relation).mkdir(parents=True, exist_ok=True)
