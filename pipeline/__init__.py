"""The jobs of the product: everything from raw tables on one command, and the nightly run."""
