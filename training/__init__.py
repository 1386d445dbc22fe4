"""Data set → models → evaluation → registry. `python -m training` runs all of it."""

# Before anything loads LightGBM: the package sets how its threads wait.
import scoring  # noqa: F401

SEED = 20260101
"""Default of every random choice that training makes."""
