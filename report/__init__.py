"""The data and model report: `python -m report`."""
