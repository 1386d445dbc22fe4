"""A slow and obvious re-implementation of the contract, written from the spec and never from the SQL.

    world = World(read_raw(directory))
    features(world, "customer_1", datetime(2026, 1, 5))   # 59 values, or None when out of scope
    labels(world, "customer_1", datetime(2026, 1, 5), as_of)
    world.judged.rejected                                  # quarantine.rejected_rows

Everything is plain Python over lists of dicts. Where the warehouse and this package differ by one bit, one
is wrong.
"""

from .contract import COLUMNS, DEFAULTS, PRIMARY_KEY, SUBJECTS, Settings
from .facts import Facts, World
from .features import FEATURES, features, in_scope
from .labels import LABELS, health_index, health_index_of_features, labels, segment
from .quarantine import Rejected, judge
from .raw import Raw, Row, read_raw
from .snapshots import default_as_of, snapshots

__all__ = [
    "COLUMNS",
    "DEFAULTS",
    "FEATURES",
    "LABELS",
    "PRIMARY_KEY",
    "SUBJECTS",
    "Facts",
    "Raw",
    "Rejected",
    "Row",
    "Settings",
    "World",
    "default_as_of",
    "features",
    "health_index",
    "health_index_of_features",
    "in_scope",
    "judge",
    "labels",
    "read_raw",
    "segment",
    "snapshots",
]
