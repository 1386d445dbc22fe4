"""Examples: the pipeline on other data than the simulated marketplace."""
