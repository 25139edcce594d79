"""What is compared: a client Pod as it is, with Podlane in four ways, and with CNI's bandwidth plugin. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.errors import BenchmarkError
from benchmarks.policies import FIRST_SINK_PORT, UNLIMITED
from benchmarks.stage import HTTP_PORT, IPERF_PORT

RATES: Final = (10, 100)
"""Mbit/s of the limits whose accuracy is measured."""
_PLUGIN_UNLIMITED: Final = "30G"
"""The token bucket counts bytes per second in 32 bits (struct tc_ratespec in linux/pkt_sched.h): below 34 Gbit/s."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A class of the policy, told by its name or by ports of the server. ``mbit``: its limit; None: none."""

    name: str
    mbit: int | None
    ports: tuple[int, ...]

    @property
    def host(self) -> str:
        """The name by which its traffic is told."""
        return f"{self.name}.example.com"


WEB: Final = Lane("web", None, (HTTP_PORT, IPERF_PORT))
LIMITED: Final = tuple(Lane(f"limited-{mbit}", mbit, (FIRST_SINK_PORT + i,)) for i, mbit in enumerate(RATES))
LANES: Final = (*LIMITED, WEB)
"""In the order of the policy: that of the measured requests is asked last."""


@dataclass(frozen=True, slots=True)
class Client:
    """A Pod that sends: what its name ends with, what it can be used for, and its annotations."""

    suffix: str
    lanes: tuple[Lane, ...]
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to hold a Pod to limits. ``datapath``: of the sidecar; None: there is none. ``agent``: the node's agent
    does it."""

    name: str
    title: str
    datapath: str | None = None
    agent: bool = False
    by_port: bool = False
    plugin: bool = False

    @property
    def injected(self) -> bool:
        """Whether its client has a sidecar."""
        return self.datapath is not None

    @property
    def ours(self) -> bool:
        """Whether it is Podlane that holds the limits."""
        return self.injected or self.agent

    @property
    def clients(self) -> tuple[Client, ...]:
        """The Pods that it takes. The plugin knows limits of whole Pods alone, so that each takes a Pod of its own."""
        if self.plugin:
            limits = {lane: f"{lane.mbit}M" if lane.mbit else _PLUGIN_UNLIMITED for lane in LANES}
            return tuple(
                Client(f"-{lane.name}", (lane,), {"kubernetes.io/egress-bandwidth": limit})
                for lane, limit in limits.items()
            )
        if not self.ours:
            return (Client("", (WEB,), {}),)
        annotations = {
            "podlane.io/egress-bandwidth": UNLIMITED.removesuffix("bit"),
            "podlane.io/classes": json.dumps([_class(lane, by_port=self.by_port) for lane in LANES]),
        }
        if self.datapath is not None:
            annotations["podlane.io/datapath"] = self.datapath
        return (Client("", LANES, annotations),)

    @property
    def limits(self) -> bool:
        """Whether it can hold anything to a limit."""
        return any(lane.mbit for client in self.clients for lane in client.lanes)


def _class(lane: Lane, *, by_port: bool) -> dict[str, object]:
    ceil = f"{lane.mbit}Mbit" if lane.mbit else UNLIMITED
    match = [{"port": list(lane.ports)}] if by_port else [{"sni": [lane.host]}, {"host": [lane.host]}]
    return {"name": lane.name, "rate": f"{lane.mbit or 100}Mbit", "ceil": ceil, "match": match}


PLAIN: Final = Variant("plain", "without injection")
RELAY: Final = Variant("relay", "Podlane relay", datapath="relay")
ASIDE: Final = Variant("step-aside", "Podlane step aside", datapath="step-aside")
KERNEL: Final = Variant("kernel-only", "Podlane, by port alone", datapath="relay", by_port=True)
AGENT: Final = Variant("agent", "Podlane's agent of the node", agent=True)
BANDWIDTH: Final = Variant("bandwidth", "CNI's bandwidth plugin", plugin=True)
VARIANTS: Final = {variant.name: variant for variant in (PLAIN, RELAY, ASIDE, KERNEL, AGENT, BANDWIDTH)}


def choose(wanted: Sequence[str]) -> list[Variant]:
    """The named variants in their usual order, all when none is named. Raises :class:`BenchmarkError`."""
    if unknown := [name for name in wanted if name not in VARIANTS]:
        raise BenchmarkError(f"There is no variant {', '.join(unknown)}. There are: {', '.join(VARIANTS)}.")
    return [variant for name, variant in VARIANTS.items() if not wanted or name in wanted]
