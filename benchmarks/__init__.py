"""The benchmark: Podlane beside its peers, in the same run, on the same machine. ``python -m benchmarks --help``."""
