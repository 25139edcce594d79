"""Small programs that run inside the namespaces: ``python -m benchmarks.workers.NAME``."""
