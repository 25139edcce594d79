"""How Podlane bears load and abuse: ``python -m benchmarks abuse``."""
