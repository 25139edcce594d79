"""A kernel in memory that refuses what the real one refuses. For tests, and for planning."""
