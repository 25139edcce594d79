"""What a kind cluster knows that may explain a failure: Pods, events, logs; rules, qdiscs, classes and filters of each Pod."""

from __future__ import annotations

from collections.abc import Iterator
from subprocess import TimeoutExpired

from kind_cluster import SYSTEM, KindCluster
from kubectl import RefusedError

_TAIL = 6000
"""Characters of each part."""
_IN_EACH_POD = """
for name in $(ls /run/netns); do
  echo "=== $name: $(ip -netns $name -brief -4 address show dev eth0)"
  for save in iptables-save ip6tables-save; do
    echo "--- $save"
    ip netns exec $name $save | grep -v '^[*:#]\\|COMMIT'
  done
  ip -netns $name rule
  for kind in qdisc class filter; do tc -netns $name -statistics $kind show dev eth0; done
done
"""
_LOGS = 'for log in /var/log/pods/%s/*.log; do echo "=== $log"; tail --lines=30 "$log"; done'
"""The kubelet's own files: those of a container's runs before the last one, too, and when there is no API server."""


def report_on(cluster: KindCluster) -> Iterator[tuple[str, str]]:
    """Titles and texts. What cannot be had is told in its place."""
    everywhere = ("--all-namespaces",)
    questions = {
        "pods": ("get", "pods", "--output=wide", *everywhere),
        "events": ("get", "events", "--sort-by=.lastTimestamp", *everywhere),
        "injectors": ("logs", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/part-of=podlane", "--tail=50", "--prefix"),
    }  # fmt: skip
    for title, question in questions.items():
        try:
            said = cluster.kubectl(*question)
        except (RefusedError, TimeoutExpired) as error:
            said = str(error)
        yield title, said[-_TAIL:]
    parts = {
        "rules, qdiscs, classes, filters": (("sh", "-c", _IN_EACH_POD), 2 * _TAIL),
        "sidecars, runs before the last one included": (("sh", "-c", _LOGS % "*/podlane"), _TAIL),
        "kube-system": (("sh", "-c", _LOGS % "kube-system_*/*"), 2 * _TAIL),
        "kubelet": (("journalctl", "--unit=kubelet", "--lines=40", "--no-pager", "--output=cat"), _TAIL),
    }
    for title, (command, most) in parts.items():
        try:
            said = cluster.in_node(*command)
        except (RefusedError, TimeoutExpired) as error:  # the API server is away, which tells the node's name
            said = str(error)
        yield title, said[-most:]
