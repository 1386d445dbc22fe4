"""The dbt-duckdb plugin that prepares the folders of the feature exports (profiles.yml).

SQL cannot make a directory, and `COPY` (macros/export.sql) needs one a family.
"""

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from feature_repo.catalog import load_catalog
from feature_repo.paths import feature_export_dir


class Plugin(BasePlugin):
    """Makes the directories that macros/export.sql writes to."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Create one directory a feature family below FEATURE_EXPORT_DIR."""
        for family in load_catalog().families:
            (feature_export_dir() / family.relation).mkdir(parents=True, exist_ok=True)
