"""In-database scoring: released models, and the predictions they write into the warehouse."""

import os

# OpenMP's idle threads spin by default. Where the cores are shared, LightGBM then waits for itself: training
# on two busy cores took ten times as long (28.1 s against 2.8 s a model). It reads this when LightGBM is
# first loaded, so it stands here, before any module of the package can import LightGBM.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> object:
    """`scoring.connect` and `scoring.register`, imported when asked for: training needs neither."""
    if name in ("connect", "register"):
        from scoring import functions

        return getattr(functions, name)
    raise AttributeError(f"module 'scoring' has no attribute {name!r}")
