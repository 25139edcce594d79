"""What a kind cluster knows that may explain a failure: Pods, events, logs; the rules and classes in each Pod's network."""

from __future__ import annotations

from collections.abc import Iterator
from subprocess import TimeoutExpired

from kind_cluster import SHOP, SYSTEM, KindCluster
from kubectl import RefusedError

_TAIL = 6000
"""Characters of each part."""
_IN_EACH_POD = """
for name in $(ls /run/netns); do
  echo "=== $name: $(ip -netns $name -brief -4 address show dev eth0)"
  ip netns exec $name iptables-save | grep -v '^[*:#]\\|COMMIT'
  ip -netns $name rule
  tc -netns $name -statistics class show dev eth0
done
"""


def report_on(cluster: KindCluster) -> Iterator[tuple[str, str]]:
    """Titles and texts. What cannot be had is told in its place."""
    everywhere = ("--all-namespaces",)
    questions = {
        "pods": ("get", "pods", "--output=wide", *everywhere),
        "events": ("get", "events", "--sort-by=.lastTimestamp", *everywhere),
        "injectors": ("logs", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/part-of=podlane", "--tail=50", "--prefix"),
        "sidecars": ("logs", f"--namespace={SHOP}", "--selector=app", "--container=podlane", "--tail=50", "--prefix"),
    }  # fmt: skip
    for title, question in questions.items():
        try:
            said = cluster.kubectl(*question)
        except (RefusedError, TimeoutExpired) as error:
            said = str(error)
        yield title, said[-_TAIL:]
    yield "rules and classes", cluster.in_node("sh", "-c", _IN_EACH_POD)[-_TAIL:]
    yield (
        "kubelet",
        cluster.in_node("journalctl", "--unit=kubelet", "--lines=40", "--no-pager", "--output=cat")[-_TAIL:],
    )
