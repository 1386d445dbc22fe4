"""The size of the warehouse's row groups. DuckDB gives each of its threads whole row groups.

Its own size is 122,880 rows, which leaves most tables of a night, of a row a customer, to one thread. Only
`attach` takes another; and a connection with DuckDB's own joins smaller row groups when it writes. So whoever
writes to the warehouse calls `set_row_group_size` first.
"""

from duckdb import DuckDBPyConnection

# A multiple of the 2,048 rows of DuckDB's vectors. docs/performance.md says what was measured.
ROW_GROUP_SIZE = 49_152


def set_row_group_size(connection: DuckDBPyConnection) -> None:
    """Attach the database that a connection has just opened to write anew, with row groups of ROW_GROUP_SIZE.

    It keeps its name and stays the default, for all connections of this process to it. A database in memory
    is left as it is.
    """
    row = connection.execute(
        """
        select database_name, path, options['row_group_size']
        from duckdb_databases()
        where database_name = current_database()
        """
    ).fetchone()
    assert row is not None
    name, path, size = row
    if path is None or size == str(ROW_GROUP_SIZE):
        return
    identifier, literal = name.replace('"', '""'), path.replace("'", "''")
    # A connection cannot let go of its default database, so for a moment that is another one.
    for statement in (
        "attach ':memory:' as elsewhere",
        "use elsewhere",
        f'detach "{identifier}"',
        f"attach '{literal}' as \"{identifier}\" (row_group_size {ROW_GROUP_SIZE})",
        f'use "{identifier}"',
        "detach elsewhere",
    ):
        connection.execute(statement)
