"""The dbt-duckdb plugin that gives every dbt run the scoring functions.

profiles.yml names it: `plugins: [{module: scoring.plugin}]`.
"""

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from scoring.functions import register


class Plugin(BasePlugin):
    """Registers the functions of `scoring.functions` on dbt's connection, with the models of MODELS_DIR."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Add the functions to the database; dbt calls this once it has opened it."""
        register(conn)
