"""HAProxy in TCP mode, the class by SNI: marked by set-bc-mark (3.0 and later), else by source address.

Twice, since no one setting of its splicing is best at everything: ``splice-auto`` leaves it to HAProxy, which then
copies most of a bulk transfer (2.6); told to splice always, it needs half the CPU for bulk and a little more for small
requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar, Final

from benchmarks.candidates.base import ALL, Ability, Candidate, Running, said_version, serving
from benchmarks.capture import INBOUND_PORT, PORT, marked_by_source, rules, source_addresses
from benchmarks.policies import BenchPolicy
from benchmarks.stage import Stage
from podlane.netns.tools import find_tool

_MARKS_SINCE: Final = (3, 0)
"""The first release with ``tcp-request content set-bc-mark``."""


def release(version_line: str) -> tuple[int, int]:
    """Major and minor release in the first line of ``haproxy -v``; (0, 0) when there is none."""
    found = re.search(r"version (\d+)\.(\d+)", version_line)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class HaProxy(Candidate):
    """HAProxy as it decides by itself: at its best with small requests."""

    name = "haproxy"
    title = "HAProxy, splice-auto"
    splicing: ClassVar[tuple[str, ...]] = ("splice-auto",)

    @property
    def abilities(self) -> frozenset[Ability]:
        return ALL - {Ability.LANES} if self._marks else ALL - {Ability.LANES, Ability.MANY_CLASSES}

    @property
    def _marks(self) -> bool:
        return release(self.version()) >= _MARKS_SINCE

    def missing(self) -> str | None:
        return None if find_tool("haproxy") else "Install it: apt-get install haproxy"

    def version(self) -> str:
        return said_version(find_tool("haproxy") or "haproxy", "-v").removeprefix("HAProxy version ").split(" - ")[0]

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:
        path = stage.folder / "haproxy.cfg"
        with ExitStack() as stack:
            stack.enter_context(stage.shaped(policy))
            stack.enter_context(rules(stage, policy))
            if self._marks:
                path.write_text(marking_configuration(policy, self.splicing))
            else:
                addresses = source_addresses(stage, policy)
                stack.enter_context(marked_by_source(stage, policy, addresses))
                path.write_text(binding_configuration(policy, addresses, self.splicing))
            yield stack.enter_context(serving(stage, self.name, ["haproxy", "-f", str(path), "-db"]))


class HaProxySplice(HaProxy):
    """HAProxy told to splice whatever it can: at its best with bulk."""

    name = "haproxy-splice"
    title = "HAProxy, splice always"
    splicing: ClassVar = ("splice-request", "splice-response")


def _common(splicing: Sequence[str]) -> str:
    options = "".join(f"  option {option}\n" for option in splicing)
    return _GLOBAL + options + _FRONTEND


_GLOBAL: Final = """\
global
  nbthread 1
  maxconn 6000
  maxpipes 1000
  tune.maxpollevents 200
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""
_FRONTEND: Final = f"""\
frontend captured
  bind 127.0.0.1:{PORT} transparent
  maxconn 6000
  tcp-request inspect-delay 3s
"""
_ACCEPT: Final = """\
  tcp-request content accept if { req.ssl_hello_type 1 }
  tcp-request content accept if HTTP
  tcp-request content accept if { req.len gt 16 } !{ req.payload(0,1) -m bin 16 }
"""
"""Go on as soon as it is clear what it is; 0x16 begins a TLS record."""


def marking_configuration(policy: BenchPolicy, splicing: Sequence[str]) -> str:
    """Every class of the policy, by SNI; the server socket gets the class's mark."""
    marks = [f"  tcp-request content set-bc-mark {policy.mark():#x}"]
    marks += [
        f"  tcp-request content set-bc-mark {policy.mark(c.name):#x} if {{ req.ssl_sni -i {c.host} }}"
        for c in policy.classes
    ]
    backend = "  default_backend original\nbackend original\n  server dst 0.0.0.0:0\n"
    return _common(splicing) + "".join(f"{line}\n" for line in marks) + _ACCEPT + backend


def inbound_configuration(policy: BenchPolicy, splicing: Sequence[str]) -> str:
    """What clients open, to the Pod's server on loopback and from the client's own address; answers get their mark."""
    marks = [f"  tcp-request content set-mark {policy.mark():#x}"]
    marks += [
        f"  tcp-request content set-mark {policy.mark(c.name):#x} if {{ req.ssl_sni -i {c.host} }}"
        for c in policy.classes
    ]
    listener = _common(splicing).replace(f"bind 127.0.0.1:{PORT}", f"bind 127.0.0.1:{INBOUND_PORT}")
    backend = "  default_backend server\nbackend server\n  source 0.0.0.0 usesrc client\n  server app 127.0.0.1\n"
    return listener + "".join(f"{line}\n" for line in marks) + _ACCEPT + backend


def binding_configuration(policy: BenchPolicy, addresses: Mapping[str | None, str], splicing: Sequence[str]) -> str:
    """The measured class and the default one, by SNI; each connects from its own address."""
    target = policy.target
    return f"""\
{_common(splicing)}{_ACCEPT}\
  use_backend target if {{ req.ssl_sni -i {target.host} }}
  default_backend original
backend target
  source {addresses[target.name]}
  server dst 0.0.0.0:0
backend original
  source {addresses[None]}
  server dst 0.0.0.0:0
"""
