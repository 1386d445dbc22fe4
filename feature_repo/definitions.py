"""What ``feast apply`` registers. It is the only module that Feast scans (see .feastignore).

Feast imports this file as a top-level module and collects the Feast objects among its attributes. Because the
objects come out of the feature catalog, the attributes are set in a loop rather than written down one by one.
"""

import sys
from pathlib import Path

# `feast apply` runs inside feature_repo/ and must find the package, also when the project is not installed.
# (The commands that materialize do not read this file: they need it installed or on PYTHONPATH.)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from feature_repo.build import build_definitions
from feature_repo.store import ensure_state_directory

_definitions = build_definitions()

for _item in (
    _definitions.entity,
    *_definitions.sources,
    *_definitions.views,
    *_definitions.services,
):
    globals()[_item.name] = _item

# Feast creates the directory of its registry but not that directory's parent: in a fresh clone there is no
# data/ yet.
ensure_state_directory()
