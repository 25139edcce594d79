"""Counts the connections of one workload, as the classifier reports them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from daemon.documents.classes import ConnectionCounts
from datapath.protocols.detect import Detection
from datapath.stepaside.class_cache import DetectedFlow


class FlowCounters:
    """Decided connections by class and protocol. One thread may count while another reads.

    The end of a connection is not seen, so none is counted as active.
    """

    def __init__(self) -> None:
        self.decided: Counter[tuple[str, str]] = Counter()
        """By class and protocol."""

    def detected(self, detection: Detection, seconds: float) -> None:
        """Nothing is counted by content alone."""

    def stepped_aside(self, flow: bytes, known: DetectedFlow, class_name: str) -> None:  # noqa: ARG002
        """The class is chosen."""
        self.decided[class_name, known.detection.protocol.value] += 1

    def decided_in_kernel(self, class_name: str, detection: Detection, count: int) -> None:
        """So many connections have their class by programs in the kernel."""
        self.decided[class_name, detection.protocol.value] += count

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
