"""Podlane with one feature on, as candidates; and HAProxy at what clients open, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from benchmarks.candidates.base import Running, serving
from benchmarks.candidates.haproxy import HaProxy, inbound_configuration
from benchmarks.candidates.podlane import PodlaneRelay
from benchmarks.capture import INBOUND_PORT, rules
from benchmarks.policies import UNLIMITED, BenchPolicy
from benchmarks.stage import IPERF_PORT, Stage

Change = Callable[[dict[str, Any], BenchPolicy], dict[str, Any]]
"""From the document of a policy, and the policy, to another document."""

_GUARANTEED: Final = "100Mbit"


class Variant(PodlaneRelay):
    """The sidecar with some options, and with a changed policy. ``everywhere``: on all CPUs instead of one."""

    def __init__(
        self, name: str, title: str, *options: str, change: Change | None = None, everywhere: bool = False
    ) -> None:
        self.name = name
        self.title = title
        self.options = options
        self._change = change
        self._everywhere = everywhere

    def document(self, policy: BenchPolicy) -> dict[str, Any]:
        document = super().document(policy)
        return self._change(document, policy) if self._change else document

    def pinned(self, stage: Stage) -> list[str]:
        return [] if self._everywhere else super().pinned(stage)


class HaProxyInbound(HaProxy):
    """HAProxy between clients and the Pod's server, which sees its clients' addresses; answers marked by SNI."""

    name = "haproxy-inbound"
    title = "HAProxy, transparent"

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:
        path = stage.folder / "haproxy.cfg"
        path.write_text(inbound_configuration(policy, self.splicing))
        with ExitStack() as stack:
            stack.enter_context(stage.shaped(policy))
            stack.enter_context(rules(stage, policy))
            argv = ["haproxy", "-f", str(path), "-db"]
            yield stack.enter_context(serving(stage, self.name, argv, port=INBOUND_PORT))


def by_port(document: dict[str, Any], policy: BenchPolicy) -> dict[str, Any]:
    """Classes by port alone, so that nothing meets the proxy. The last class also has the port of bulk transfers."""
    return document | {
        "classes": [
            {**made, "match": [{"port": [c.port, c.http_port, *([IPERF_PORT] if c == policy.target else [])]}]}
            for made, c in zip(document["classes"], policy.classes, strict=True)
        ]
    }


def limits_total(document: dict[str, Any], _policy: BenchPolicy) -> dict[str, Any]:
    """What arrives goes by the ifb, where one class takes it."""
    return document | {"ingress": {"total": UNLIMITED}}


def limits_classes(document: dict[str, Any], _policy: BenchPolicy) -> dict[str, Any]:
    """... and every class has its own part of it: by name, that takes the look-up of sockets."""
    ingress = {"rate": _GUARANTEED, "ceil": UNLIMITED}
    classes = [{**made, "ingress": ingress} for made in document["classes"]]
    return document | {"ingress": {"total": UNLIMITED}, "classes": classes}


def by_port_with_limits(document: dict[str, Any], policy: BenchPolicy) -> dict[str, Any]:
    """By port, each class with its part of what arrives."""
    return limits_classes(by_port(document, policy), policy)
