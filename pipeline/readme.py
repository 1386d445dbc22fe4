"""The queries of README.md: run them, and put their output below them.

    python -m pipeline.readme     # after `make run`: rewrites the outputs

A query is a fenced block marked `sql`; its output is the fenced `text` block right after it. A test runs
every query, so the README cannot ask for what the warehouse does not have.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import duckdb

import scoring
from feature_repo.files import write_whole
from feature_repo.paths import repository_root

_QUERY_WITH_OUTPUT = re.compile(r"```sql\n(?P<query>.*?)```\n\n```text\n(?P<output>.*?)```", re.DOTALL)


def queries(markdown: str) -> list[str]:
    """The SQL of all query blocks, in order."""
    return [match["query"] for match in _QUERY_WITH_OUTPUT.finditer(markdown)]


def with_output(markdown: str, connection: duckdb.DuckDBPyConnection) -> str:
    """The text with every output block replaced by what its query gives.

    Raises duckdb.Error when a query fails.
    """

    def refreshed(match: re.Match[str]) -> str:
        return f"```sql\n{match['query']}```\n\n```text\n{_as_text(connection.sql(match['query']))}\n```"

    return _QUERY_WITH_OUTPUT.sub(refreshed, markdown)


def _as_text(result: duckdb.DuckDBPyRelation) -> str:
    rows = [[_cell(value) for value in row] for row in result.fetchall()]
    columns = [list(column) for column in zip(result.columns, *rows, strict=True)]
    numeric = [all(re.fullmatch(r"-?[\d.,]+|–", cell) for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [result.columns, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def main() -> int:
    """Rewrite README.md from the warehouse at WAREHOUSE_PATH; exit code 0."""
    readme = Path(repository_root() / "README.md")
    with scoring.connect() as connection:
        text = with_output(readme.read_text(), connection)
    write_whole(readme, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
