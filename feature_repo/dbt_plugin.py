"""The dbt-duckdb plugin for the warehouse's file and its exports (profiles.yml).

SQL can neither make a directory nor rename a file, and `COPY` (macros/export.sql) needs both: DuckDB's own
temporary file is a `tmp_….parquet` beside the others, so whoever reads the folder meanwhile, or after a kill,
would find half a file. And it lists files slowly.
"""

from pathlib import Path

from dbt.adapters.duckdb.plugins import BasePlugin
from duckdb import DuckDBPyConnection

from feature_repo.catalog import WIDE_RELATION
from feature_repo.paths import PARTIAL, feature_export_dir
from feature_repo.predictions import PREDICTIONS_RELATION
from feature_repo.raw_files import FILES_TYPE, raw_files
from feature_repo.row_groups import set_row_group_size


class Plugin(BasePlugin):
    """Gives the warehouse its row groups, and prepares what macros/export.sql and raw_contract.sql need."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        """Set the size of row groups, create a directory for each exported relation below FEATURE_EXPORT_DIR,
        remove what a killed run left half written there, and add the SQL functions
        `put_in_place(partial, instead_of)` and `raw_files(directory)`.

        Nobody else writes there now: DuckDB lets one process at a time open the warehouse to write.
        """
        set_row_group_size(conn)
        for relation in (WIDE_RELATION, PREDICTIONS_RELATION):
            folder = feature_export_dir() / relation
            folder.mkdir(parents=True, exist_ok=True)
            for partial in folder.glob(f"*{PARTIAL}"):
                partial.unlink()
        # Functions belong to the database: a connection of this process may have brought it already.
        known = conn.execute("select 1 from duckdb_functions() where function_name = 'put_in_place'")
        if not known.fetchall():
            files = ["VARCHAR", "VARCHAR[]"]
            conn.create_function("put_in_place", put_in_place, files, "VARCHAR", side_effects=True)
            conn.create_function("raw_files", raw_files, ["VARCHAR"], FILES_TYPE, side_effects=True)


def put_in_place(partial: str, instead_of: list[str]) -> str:
    """Give the finished file, named `<file>.partial`, its own name, and remove the files that it takes the
    place of; returns that name.

    They go first: a snapshot that no file holds is exported by the next run, one that two hold stays twice.
    """
    for file in instead_of:
        Path(file).unlink()
    return str(Path(partial).replace(partial.removesuffix(PARTIAL)))
