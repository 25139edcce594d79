"""The rules that lead the Pod's connections to a candidate: those of the product, the same for everybody.

A proxy that can set SO_MARK on what it sends is exempt by that mark, as Podlane's own proxy is. A proxy that cannot
(nginx stream, HAProxy before 3.0, mitmproxy) sends from an address of its own, one per class, and a rule in front turns
the address into the mark: packets of closed sockets, which have no owner any more, keep their address too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from benchmarks.policies import BenchPolicy
from benchmarks.stage import INTERFACE, Stage
from datapath.netfilter.install import Installer, IptablesSetting, detect_backend
from datapath.netfilter.ruleset import CaptureSettings, build_ruleset
from traffic_policy.marks import CLASS_MASK, OWN

PORT: Final = 15101
"""Where candidates listen: the product's own port."""
INBOUND_PORT: Final = 15106
"""The same for what clients open."""
_FIRST_SOURCE: Final = 10
"""Host number, in the Pod's /24, of the first address that stands for a class."""


@contextmanager
def rules(stage: Stage, policy: BenchPolicy, *, by_port: bool = False) -> Iterator[None]:
    """The product's mangle rules for a policy: they capture by name, or with ``by_port`` mark in the kernel alone."""
    ruleset = build_ruleset(
        policy.policy(by_port=by_port),
        policy.ids,
        CaptureSettings(outbound_port=PORT, inbound_port=INBOUND_PORT, interface=INTERFACE),
    )
    with stage.pod.namespace.entered():
        installer = Installer(detect_backend(IptablesSetting.AUTO))
        installer.install(ruleset)
    try:
        yield
    finally:
        with stage.pod.namespace.entered():
            installer.remove()


def source_addresses(stage: Stage, policy: BenchPolicy) -> dict[str | None, str]:
    """An address of the Pod for the measured class and for the default one (None), for proxies that cannot mark."""
    network = stage.topology.pod_link.ipv4
    return {None: str(network[_FIRST_SOURCE]), policy.target.name: str(network[_FIRST_SOURCE + 1])}


@contextmanager
def marked_by_source(stage: Stage, policy: BenchPolicy, addresses: Mapping[str | None, str]) -> Iterator[None]:
    """Give the Pod these addresses, and what is sent from them the marks of their classes."""
    mask = CLASS_MASK | OWN.mask
    pod = stage.pod
    with ExitStack() as stack:
        for name, address in addresses.items():
            pod.add_address(INTERFACE, f"{address}/32")
            stack.callback(pod.ip, "address", "delete", f"{address}/32", "dev", INTERFACE)
            rule = ["OUTPUT", "-s", address, "-j", "MARK", "--set-xmark", f"{policy.mark(name):#x}/{mask:#x}"]
            pod.run(["iptables", "-t", "mangle", "-I", *rule])
            stack.callback(pod.run, ["iptables", "-t", "mangle", "-D", *rule])
        yield
