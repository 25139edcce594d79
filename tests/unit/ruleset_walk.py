"""How the kernel walks our rules, for tests: packets in memory that meet them one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from datapath.netfilter.rules import (
    ConntrackDirection,
    Drop,
    FamilyRules,
    Goto,
    Jump,
    Nfqueue,
    ResetPriority,
    RestoreMark,
    Return,
    Rule,
    SaveMark,
    SetConnmark,
    SetMark,
    Tproxy,
)
from datapath.routing.flow import Address
from traffic_policy.marks import DIVERT, Mark
from traffic_policy.policy import TransportProtocol

TCP, UDP, ICMP = TransportProtocol


@dataclass
class Packet:
    """What the rules can see of a packet, and the marks they can change. No connmark: not tracked."""

    address: Address
    protocol: TransportProtocol | None = TCP
    port: int = 443
    syn: bool = True
    mark: int = 0
    connmark: int | None = 0
    direction: ConntrackDirection | None = ConntrackDirection.ORIGINAL
    out_interface: str = "eth0"
    source: Address | None = None
    source_port: int = 40000
    in_interface: str = "eth0"
    to_here: bool = True
    has_socket: bool = True
    carries_data: bool = False
    quic_initial: bool = False
    dropped: bool = False
    tproxy: Tproxy | None = field(default=None, compare=False)
    queue: int | None = None
    user: int | None = 1000
    group: int | None = 1000
    priority: int = 0
    original_port: int | None = None


def has(value: int | None, mark: Mark) -> bool:
    return value is not None and value & mark.mask == mark.value


def put(value: int, mark: Mark) -> int:
    return value & ~mark.mask | mark.value


def meets(rule: Rule, packet: Packet) -> bool:
    return (
        (rule.protocol is None or rule.protocol is packet.protocol)
        and (rule.source is None or packet.source in rule.source)
        and (rule.destination is None or packet.address in rule.destination)
        and (rule.in_interface is None or rule.in_interface == packet.in_interface)
        and (rule.out_interface is None or rule.out_interface == packet.out_interface)
        and (rule.not_out_interface is None or rule.not_out_interface != packet.out_interface)
        and (not rule.syn or packet.syn)
        and (not rule.ports or any(packet.port in ports for ports in rule.ports))
        and (not rule.source_ports or any(packet.source_port in ports for ports in rule.source_ports))
        and (not rule.to_here or packet.to_here)
        and (not rule.has_socket or packet.has_socket)
        and (rule.mark is None or has(packet.mark, rule.mark))
        and (rule.connmark is None or has(packet.connmark, rule.connmark))
        and (rule.direction is None or packet.direction is rule.direction)
        and (not rule.carries_data or packet.carries_data)
        and (not rule.quic_initial or packet.quic_initial)
        and (rule.user is None or rule.user == packet.user)
        and (rule.group is None or rule.group == packet.group)
        and (not rule.ownerless or (packet.user is None and packet.group is None))
        and (rule.original_port is None or (packet.original_port or packet.port) in rule.original_port)
    )


def walk(rules: FamilyRules, chain: str, packet: Packet) -> None:
    chains = {c.name: c.rules for c in rules.chains}
    for rule in chains[chain]:
        if not meets(rule, packet):
            continue
        match rule.action:
            case Return():
                return
            case Jump(target):
                walk(rules, target, packet)
            case Goto(target):
                walk(rules, target, packet)
                return
            case SetMark(mark):
                packet.mark = put(packet.mark, mark)
            case ResetPriority():
                packet.priority = 0
            case SetConnmark(mark):
                if packet.connmark is not None:
                    packet.connmark = put(packet.connmark, mark)
            case SaveMark(mask):
                if packet.connmark is not None:
                    packet.connmark = packet.connmark & ~mask | packet.mark & mask
            case RestoreMark(mask):
                if packet.connmark is not None:
                    packet.mark = packet.mark & ~mask | packet.connmark & mask
            case Tproxy():
                packet.tproxy = rule.action
                return
            case Nfqueue(number):
                packet.queue = number
                return
            case Drop():
                packet.dropped = True
                return


def through(rules: FamilyRules, builtin: str, packet: Packet) -> Packet:
    """The packet after a mangle chain of the kernel's."""
    for hook in rules.hooks:
        if hook.builtin == builtin and isinstance(hook.rule.action, Jump) and meets(hook.rule, packet):
            walk(rules, hook.rule.action.chain, packet)
    return packet


def output(rules: FamilyRules, packet: Packet) -> Packet:
    """The packet after mangle OUTPUT."""
    return through(rules, "OUTPUT", packet)


def arrival(rules: FamilyRules, packet: Packet) -> Packet:
    """The packet after mangle PREROUTING."""
    return through(rules, "PREROUTING", packet)


def answer(packet: Packet) -> Packet:
    """A packet of the program that got this one."""
    assert packet.source is not None
    return replace(
        packet, address=packet.source, port=packet.source_port, source=packet.address, source_port=packet.port,
        syn=False, direction=ConntrackDirection.REPLY, mark=0, tproxy=None, queue=None, quic_initial=False,
        original_port=packet.port,
    )  # fmt: skip


def captured(packet: Packet) -> bool:
    return has(packet.mark, DIVERT)
