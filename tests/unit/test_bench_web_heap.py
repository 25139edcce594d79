"""What is counted of a snapshot of a browser's heap."""

from __future__ import annotations

from benchmarks.web.figures import kept_bytes


def test_what_scripts_hold_counts_and_code_does_not() -> None:
    meta = {
        "node_fields": ["type", "name", "id", "self_size"],
        "node_types": [["hidden", "array", "string", "object", "code", "native"], "string", "number", "number"],
    }
    nodes = [3, 0, 1, 100, 4, 0, 3, 7000, 2, 0, 5, 20, 5, 0, 7, 9000, 1, 0, 9, 3, 0, 0, 11, 400]
    assert kept_bytes({"snapshot": {"meta": meta}, "nodes": nodes}) == 123
