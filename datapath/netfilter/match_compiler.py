"""Compiles one match of a policy to mangle rules: for outbound connections, and for replies of inbound ones."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from datapath.netfilter.capture_settings import CaptureSettings
from datapath.netfilter.rules import CHAIN_PREFIX, Action, Family, Goto, Jump, Return, Rule, port_groups
from traffic_policy.policy import Match, Network, PortRange, TransportProtocol


def return_on_ports(ports: Iterable[PortRange], *protocols: TransportProtocol) -> Iterator[Rule]:
    """Return on these destination ports."""
    for group in port_groups(ports):
        if group:
            yield from (Rule(Return(), protocol=protocol, ports=group) for protocol in protocols)


def quiet_rules(settings: CaptureSettings) -> Iterator[Rule]:
    """Rules before a capture on any port: on silent ports the server speaks first."""
    return return_on_ports((PortRange(port, port) for port in settings.silent_ports), TransportProtocol.TCP)


def content_rules(
    family: Family, match: Match, settings: CaptureSettings, *, any_port: str, capture: str
) -> Iterator[Rule]:
    """Rules of a match that needs content: SYNs that meet its other criteria go to ``capture``, or via ``any_port``.

    Where a name may carry the port, the packet's own port is not a criterion.
    """
    yield from _capture_rules(family, match, any_port if settings.any_port(match) else capture)
    if match.port and settings.service_names:
        anywhere = match.model_copy(update={"port": ()})
        yield from _capture_rules(family, anywhere, any_port if settings.any_port(anywhere) else capture)


def _capture_rules(family: Family, match: Match, chain: str) -> Iterator[Rule]:
    if not match.accepts_protocol(TransportProtocol.TCP):
        return
    for source, destination in ends(family, match):
        for ports in port_groups(match.port):
            yield Rule(
                Jump(chain),
                protocol=TransportProtocol.TCP,
                source=source,
                destination=destination,
                syn=True,
                ports=ports,
            )


def class_rules(family: Family, match: Match, class_id: int) -> Iterator[Rule]:
    """Rules of a match that the kernel decides for each packet."""
    return kernel_rules(family, match, Goto(class_chain(class_id)))


def kernel_rules(family: Family, match: Match, action: Action) -> Iterator[Rule]:
    """Rules that apply ``action`` to packets that meet a match."""
    for source, destination in ends(family, match):
        for protocol, ports in _services(match):
            yield Rule(action, protocol=protocol, source=source, destination=destination, ports=ports)


def reply_rules(family: Family, match: Match, class_id: int, *, redirected: bool) -> Iterator[Rule]:
    """:func:`class_rules` for replies, whose destination is the match's source.

    ``redirected``: nat may have redirected the client, which is undone only after these rules (in POSTROUTING).
    """
    action = Goto(class_chain(class_id))
    for source, destination in ends(family, match):
        for protocol, ports in _services(match):
            answer = Rule(action, protocol=protocol, source=destination, destination=source)
            yield from answers_from(answer, ports, redirected=redirected)


def answers_from(rule: Rule, ports: tuple[PortRange, ...], *, redirected: bool) -> Iterator[Rule]:
    """``rule`` for replies from these local ports (any if empty), which must fit in one rule."""
    if redirected and ports:
        yield from (replace(rule, original_port=port) for port in ports)
    else:
        yield replace(rule, source_ports=ports)


def _services(match: Match) -> Iterator[tuple[TransportProtocol | None, tuple[PortRange, ...]]]:
    """Every protocol with every group of ports."""
    protocols: Iterable[TransportProtocol | None] = (None,)
    if match.protocol or match.port:
        protocols = [p for p in dict.fromkeys(match.protocol or TransportProtocol) if match.accepts_protocol(p)]
    return product(protocols, port_groups(match.port))


def ends(family: Family, match: Match) -> Iterator[tuple[Network | None, Network | None]]:
    """Every source with every destination; empty when one of them names only networks of the other family."""
    return product(networks_of(family, match.source, default=(None,)), networks_of(family, match.cidr, default=(None,)))


def networks_of(
    family: Family, networks: Sequence[Network], *, default: tuple[Network | None, ...] = ()
) -> tuple[Network | None, ...]:
    """The networks of one family, none inside another; ``default`` when no network is named.

    A network that holds every address is no criterion (None); iptables-save would not show it either.
    """
    if not networks:
        return default
    if family is Family.V4:
        mine: list[Network] = list(ipaddress.collapse_addresses(n for n in networks if n.version == 4))
    else:
        mine = list(ipaddress.collapse_addresses(n for n in networks if n.version == 6))
    return tuple(network if network.prefixlen else None for network in mine)


def class_chain(class_id: int) -> str:
    """The chain that writes a class's mark."""
    return f"{CHAIN_PREFIX}C{class_id}"


def without_repeats(walk: Iterable[Rule]) -> list[Rule]:
    """The walk without duplicates: an equal rule further down has no effect.

    All name matches without a port, of which there may be hundreds, compile to the same rule.
    """
    return list(dict.fromkeys(walk))


def chains_called(rules: Iterable[Rule]) -> set[str]:
    """The chains that rules jump to."""
    return {rule.action.chain for rule in rules if isinstance(rule.action, Jump | Goto)}
