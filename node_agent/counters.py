"""Counts the connections of one workload, and the names that they had, as the classifier reports them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from daemon.documents.classes import ConnectionCounts
from datapath.ebpf.decided_names import NameSeen
from datapath.protocols.detect import Detection
from datapath.stepaside.class_cache import ChosenClass, DetectedFlow
from node_agent.names_seen import Judgement, WorkloadNames
from traffic_policy.policy import Match


class FlowCounters:
    """Decided connections by class and protocol. One thread may count while another reads.

    The end of a connection is not seen, so none is counted as active.
    """

    def __init__(self) -> None:
        self.decided: Counter[tuple[str, str]] = Counter()
        """By class and protocol."""
        self.names = WorkloadNames()

    def detected(self, detection: Detection, seconds: float) -> None:
        """Nothing is counted by content alone."""

    def stepped_aside(self, flow: bytes, known: DetectedFlow, chosen: ChosenClass) -> None:
        """The class is chosen."""
        detection = known.detection
        self.decided[chosen.class_name, detection.protocol.value] += 1
        judged = Judgement(chosen.class_name, chosen.match)
        self.names.hit(judged)
        name = detection.sni or detection.host
        if name:
            port = int.from_bytes(flow[-2:], "big")
            self.names.see(NameSeen(name, detection.protocol, port, known.bound), judged)

    def decided_in_kernel(self, class_name: str, detection: Detection, count: int) -> None:
        """So many connections have their class by programs in the kernel."""
        self.decided[class_name, detection.protocol.value] += count

    def hit_in_kernel(self, class_name: str, match: Match | None, count: int) -> None:
        """So many connections were given their class by a match, or by none."""
        self.names.hit(Judgement(class_name, match), count)

    def seen_in_kernel(self, seen: NameSeen, class_name: str, match: Match | None, count: int) -> None:
        """So many of them had this name."""
        self.names.see(seen, Judgement(class_name, match), count)

    def lost_lines(self, count: int) -> None:
        """There is no access log."""

    def keep(self, names: Container[str]) -> None:
        """Forget the classes that are not among ``names``, so that ever new names do not fill the memory."""
        for key in [key for key in list(self.decided) if key[0] not in names]:
            del self.decided[key]

    def counts(self, class_name: str) -> ConnectionCounts:
        """The connections of a class, for ``/classes``."""
        by_protocol = {protocol: count for (name, protocol), count in list(self.decided.items()) if name == class_name}
        return ConnectionCounts(0, sum(by_protocol.values()), by_protocol)
