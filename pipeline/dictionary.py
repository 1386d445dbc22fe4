"""docs/data-dictionary.md: the public tables and columns, written from the dbt YAML that describes them.

python -m pipeline.dictionary     # rewrites the page; a test fails when it is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from feature_repo.catalog import load_catalog
from feature_repo.files import write_whole
from feature_repo.paths import repository_root

PUBLIC_FOLDERS = {
    "features": "features",
    "labels": "labels",
    "predictions": "predictions",
    "marts": "marts",
    "staging": "quarantine",
}
"""Folder of models/ and the schema of its public tables: those with an enforced contract."""


def page() -> str:
    """The whole page as Markdown."""
    lines = [
        "# Data dictionary",
        "",
        "Written by `python -m pipeline.dictionary` from the dbt YAML; change it there.",
        "",
    ]
    families = {family.relation for family in load_catalog().families}
    for folder, schema in PUBLIC_FOLDERS.items():
        for model in _public_models(repository_root() / "models" / folder):
            lines += [f"## {schema}.{model['name']}", "", _one_line(model["description"]), ""]
            columns = model["columns"]
            if model["name"] in families:
                lines += ["Columns: " + ", ".join(f"`{column['name']}`" for column in columns) + ".", ""]
                continue
            lines += ["| column | type | what it says |", "|---|---|---|"]
            for column in columns:
                lines.append(f"| `{column['name']}` | {column['data_type']} | {_described(column)} |")
            lines.append("")
    return "\n".join(lines)


def _public_models(folder: Path) -> Iterator[dict]:
    for file in sorted(folder.rglob("_*.yml")):
        for model in (yaml.safe_load(file.read_text()) or {}).get("models", []):
            if model.get("config", {}).get("contract", {}).get("enforced"):
                yield model


def _described(column: dict) -> str:
    meta = column.get("config", {}).get("meta", {})
    text = _one_line(column["description"])
    if "default" in meta:
        text += f" Default: {meta['default']}."
    if "unit" in meta:
        text += f" Unit: {meta['unit']}."
    return text.replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def dictionary_file() -> Path:
    """Where the page lies."""
    return repository_root() / "docs" / "data-dictionary.md"


def main() -> int:
    """Rewrite the page; exit code 0."""
    write_whole(dictionary_file(), page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
