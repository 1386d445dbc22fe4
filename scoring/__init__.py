"""In-database scoring: released models, and the predictions they write into the warehouse."""
