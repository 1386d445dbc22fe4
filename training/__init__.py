"""Data set → models → evaluation → registry. `python -m training` runs all of it."""
