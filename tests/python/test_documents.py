"""What is written stays true: the data dictionary, the queries of the README, the Makefile's commands."""

from __future__ import annotations

import re

from feature_repo.paths import repository_root
from pipeline import dictionary
from pipeline.readme import queries

ROOT = repository_root()
README = (ROOT / "README.md").read_text()


def test_data_dictionary_is_up_to_date() -> None:
    assert dictionary.dictionary_file().read_text() == dictionary.page(), "run python -m pipeline.dictionary"


def test_readme_names_what_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_every_mart_has_a_query_in_the_readme() -> None:
    asked = " ".join(queries(README))
    marts = sorted(path.stem for path in (ROOT / "models" / "marts").glob("*.sql"))
    assert marts
    assert [mart for mart in marts if f"marts.{mart}" not in asked] == []
