"""What a cluster knows that may explain why a measurement failed: Pods, events, logs."""

from __future__ import annotations

from benchmarks.kind.cluster import Cluster, ClusterError

_TAIL = 20_000
"""Characters of each part."""


def dump(cluster: Cluster, namespace: str) -> str:
    """All of it as text. What cannot be had is told in its place."""
    here = f"--namespace={namespace}"
    questions = (
        ("get", "pods", "--output=wide", here),
        ("get", "events", "--sort-by=.lastTimestamp", here),
        ("describe", "pods", here),
        *(
            ("logs", here, f"--selector=podlane.io/inject={injected}", "--all-containers", "--prefix", "--tail=50")
            for injected in ("true", "false")
        ),
        ("logs", f"{here}-system", "--selector=app.kubernetes.io/part-of=podlane", "--prefix", "--tail=50"),
    )
    return "\n".join(f"=== kubectl {' '.join(each)}\n{_said(cluster, each)}" for each in questions)


def _said(cluster: Cluster, question: tuple[str, ...]) -> str:
    try:
        return cluster.run(*question)[-_TAIL:]
    except ClusterError as error:
        return f"{error}\n"
