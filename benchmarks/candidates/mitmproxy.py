"""mitmproxy in transparent mode, in the way its manual describes: connections come by REDIRECT, TLS is opened.

It is no competitor in speed; it is what people reach for when they want to see the names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.candidates.base import ALL, Ability, Candidate, Running, said_version, serving
from benchmarks.capture import PORT, marked_by_source, source_addresses
from benchmarks.policies import BenchPolicy
from benchmarks.stage import INTERFACE, IPERF_PORT, Stage
from podlane.netns.tools import find_tool

_OWN_ENVIRONMENT: Final = Path(sys.prefix) / "mitmproxy" / "bin" / "mitmdump"
"""It pins the versions of libraries that Podlane uses too, so it gets a virtual environment of its own in .venv."""


@cache
def _mitmdump() -> str | None:
    return str(_OWN_ENVIRONMENT) if _OWN_ENVIRONMENT.exists() else find_tool("mitmdump")


class MitmProxy(Candidate):
    """The proxy in Python that everybody knows."""

    name = "mitmproxy"
    title = "mitmproxy"

    @property
    def abilities(self) -> frozenset[Ability]:
        return ALL - {Ability.LANES, Ability.MANY_CLASSES, Ability.TLS, Ability.HTTP2}

    def missing(self) -> str | None:
        remedy = "python3 -m venv .venv/mitmproxy && .venv/mitmproxy/bin/pip install mitmproxy"
        return None if _mitmdump() else f"Install it: {remedy}"

    def version(self) -> str:
        return said_version(_mitmdump() or "mitmdump", "--version").removeprefix("Mitmproxy: ")

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:
        source = source_addresses(stage, policy)[None]
        argv = [
            *(_mitmdump() or "mitmdump", "--mode", f"transparent@127.0.0.1:{PORT}", "--quiet"),
            *("--set", f"confdir={stage.folder}/mitmproxy", "--set", f"connect_addr={source}"),
            *("--set", "connection_strategy=lazy", "--set", "stream_large_bodies=1", "--set", "ssl_insecure=true"),
            *("--tcp-hosts", f":{IPERF_PORT}$"),
        ]
        with ExitStack() as stack:
            stack.enter_context(stage.shaped(policy))
            stack.enter_context(marked_by_source(stage, policy, {None: source}))
            stack.enter_context(_redirected(stage, source))
            environment = {**os.environ, "HOME": str(stage.folder)}
            yield stack.enter_context(serving(stage, self.name, argv, env=environment))


@contextmanager
def _redirected(stage: Stage, source: str) -> Iterator[None]:
    """What the Pod sends out goes to the proxy, but for what the proxy sends itself."""
    rule = ["OUTPUT", "-o", INTERFACE, "-p", "tcp", "!", "-s", source, "-j", "REDIRECT", "--to-ports", str(PORT)]
    stage.pod.run(["iptables", "-t", "nat", "-A", *rule])
    try:
        yield
    finally:
        stage.pod.run(["iptables", "-t", "nat", "-D", *rule])
