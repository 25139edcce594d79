"""How fast ``podlane injector`` answers reviews, and what it costs: ``python -m benchmarks admission``."""
