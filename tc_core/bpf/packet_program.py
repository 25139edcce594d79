"""A BPF program that classifies packets in trees without marks: those of the library, and of an ifb.

The program is classic BPF in a cls_bpf filter on the root (tc-bpf(8)): it needs no more than CAP_NET_ADMIN and runs on
every kernel that has cls_bpf. u32 was ruled out: it has no ranges, its offsets are relative to what it has found so
far, and "this and one of those" takes a tree of hash tables. The program returns the handle of the class of the first
rule that holds, or 0: no match, so that the next filter is asked, and in the end HTB's default class.

One look at the headers, then the rules in order::

    start ── which IP version? ── 4 ── addresses, protocol, ports to M[] ── rules that an IPv4 packet can meet ── 0
                    │             6 ── the same, behind the extension headers ── rules for IPv6 ── 0
                    └── neither, or a header cut short ── rules without IP criteria ── 0

* Only what some rule needs is read, and each thing once. Offsets count from the network header (SKF_NET_OFF): link
  headers of any length and VLAN tags that the driver stores outside the packet do not matter. A tag inside the packet
  makes it one that is not IP.
* In classic BPF a load behind the end of the packet ends the program with 0: the rules that come later would be lost,
  although they may need less. So every load is guarded by the packet's length, less the Ethernet header. Two cases are
  left, in which such a packet gets the class of a later filter, or the default one: a truncated packet on a link
  with a header that is not Ethernet's, and headers outside the linear part of the buffer (drivers keep them in it).
* Rules are tried one after the other; the alternatives within one are found by binary search.
* What does not fit in one program becomes several filters at successive priorities. The first that does not
  return 0 decides, so the order of the rules is kept.

What it costs, measured as the time that 16 copies of a filter add to a packet's way through a veth (690 ns without;
x86-64 with the JIT compiler, smallest of 30 batches of 1,000): 25 ns for asking any filter at all, 46 ns with a rule by
port, 75 behind six extension headers, 62 for 20 rules by port and network, 35 for one rule of 1,000 networks. A rule
that does not hold costs 1 ns: 520 for 500 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Final

from tc_core.bpf import classic_assembler as asm
from tc_core.bpf.classic_assembler import Assembler, Instruction, Label
from tc_core.bpf.mark_classifier import classic_bytes, classic_text, fingerprint
from tc_core.compile.packet_rules import (
    AUTHENTICATION,
    EXTENSION_HEADERS,
    FRAGMENT,
    MAX_EXTENSION_HEADERS,
    NO_PROTOCOL,
    TCP,
    UDP,
    FamilyRule,
    Spans,
    for_version,
    halves,
    merged,
)
from tc_core.compile.packet_rules import PacketRule as PacketRule
from tc_core.handles import Handle
from tc_core.model import BpfFilter
from traffic_policy.errors import PodlaneError

PACKET_PRIO: Final = 10
"""Priority of the first filter; behind those that go by the mark (:data:`tc_core.model.BPF_PRIO`)."""
MAX_INSTRUCTIONS: Final = 3900
"""The kernel takes 4,096 (BPF_MAXINSNS of linux/bpf_common.h), but lists filters in messages of less than 32 KiB, and
leaves one out, without a word, that is too long for that: it could not be found again."""
MAX_PROGRAMS: Final = 64
"""Filters that a packet may have to pass: a bound on what a packet without a class can cost."""

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772
_ETH_HLEN: Final = 14
"""Bytes of an Ethernet header; loopback has one too. Other links (tun, tunnels) are taken to have none."""
_IPV4_HEADER, _IPV6_HEADER = 20, 40
"""Bytes that a header has at least."""
_EXTENSION_HEADER: Final = 8
"""Bytes that an extension header has at least."""
_PORTS: Final = 4
"""Bytes of source and destination port."""

# What is kept in scratch memory. Addresses have a word for IPv4, up to four for IPv6.
_END, _PROTOCOL, _PORT, _NEXT_HEADER, _WORD, _SOURCE_PORT, _SOURCE, _DESTINATION = 0, 1, 2, 3, 4, 5, 8, 12
"""``_END`` is the number of bytes from the network header on; the ports are 0 for a packet without any."""

_WORD_MAX: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Program:
    """One classic program and the rules that are in it, in order."""

    instructions: tuple[Instruction, ...]
    rules: tuple[PacketRule, ...]


def filters(rules: Sequence[PacketRule], parent: Handle, *, mirrored: bool = False) -> tuple[BpfFilter, ...]:
    """The filters under ``parent`` that send packets to the classes of these rules. Raises like :func:`programs`."""
    return tuple(
        BpfFilter(
            parent,
            fingerprint(classic_bytes(program.instructions)),
            text=classic_text(program.instructions),
            prio=PACKET_PRIO + i,
            rules=program.rules,
            instructions=program.instructions,
        )
        for i, program in enumerate(programs(rules, mirrored=mirrored))
    )


def programs(rules: Sequence[PacketRule], *, mirrored: bool = False) -> tuple[Program, ...]:
    """Programs that find the class of a packet, to be asked in this order; none when no rule can match anything.

    ``mirrored`` is for packets received: source and destination change sides, ports with them, since rules speak of the
    other end as the destination. Rules behind one that takes everything are left out, and so are those that no packet
    can meet (ports of ICMP). A rule too large for a program becomes several with the same target.

    Raises :class:`PodlaneError` when more than :data:`MAX_PROGRAMS` would be needed.
    """
    waiting = _reachable(rules)[::-1]  # the next one is last
    made: list[Program] = []
    while waiting:
        if len(made) == MAX_PROGRAMS:
            raise PodlaneError(
                f"{len(rules)} rules need more than {MAX_PROGRAMS} programs of {MAX_INSTRUCTIONS} instructions, "
                "and every packet would have to pass them all. Write larger networks and port ranges in the place of "
                "many small ones, or leave some out."
            )
        count, instructions = _most_that_fit(waiting[::-1], mirrored)
        if not count:
            waiting.extend(map(_Compiled.from_rule, reversed(halves(waiting.pop().rule))))
            continue
        taken = tuple(compiled.rule for compiled in waiting[: -count - 1 : -1])
        del waiting[-count:]
        made.append(Program(instructions, taken))
    return tuple(made)


def _reachable(rules: Sequence[PacketRule]) -> list[_Compiled]:
    """The rules up to the first that takes everything, without those that can match nothing."""
    end = next((i for i, rule in enumerate(rules, start=1) if rule.takes_everything), len(rules))
    return [compiled for compiled in map(_Compiled.from_rule, rules[:end]) if compiled.is_reachable]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A rule with what it asks of each IP version, worked out once. ``least`` is the room that it takes at least."""

    rule: PacketRule
    v4: FamilyRule | None
    v6: FamilyRule | None
    least: int

    @classmethod
    def from_rule(cls, rule: PacketRule) -> _Compiled:
        v4, v6 = for_version(rule, 4), for_version(rule, 6)
        lists = (s for r in (v4, v6) if r for s in (r.source, r.destination, r.ports, r.source_ports))
        return cls(rule, v4, v6, 1 + sum(map(len, lists)))

    @property
    def is_reachable(self) -> bool:
        """Whether there are packets that it can match."""
        return not self.rule.is_about_ip or self.v4 is not None or self.v6 is not None


def _most_that_fit(rules: Sequence[_Compiled], mirrored: bool) -> tuple[int, tuple[Instruction, ...]]:
    """How many of the first rules fit in one program, and that program; 0 when not even one does."""
    best: tuple[int, tuple[Instruction, ...]] = (0, ())
    attempt = sum(total <= MAX_INSTRUCTIONS for total in accumulate(rule.least for rule in rules))
    fits, too_many = 0, attempt + 1
    while fits < attempt:
        instructions = _assemble(rules[:attempt], mirrored)
        if len(instructions) <= MAX_INSTRUCTIONS:
            fits, best = attempt, (attempt, instructions)
        else:
            too_many = attempt
        attempt = (fits + too_many) // 2
    return best


def _assemble(rules: Sequence[_Compiled], mirrored: bool) -> tuple[Instruction, ...]:
    code = Assembler()
    not_ip = Label()
    if any(compiled.rule.is_about_ip for compiled in rules):
        v4, v6 = Label(), Label()
        _length(code)
        code.op(asm.LD_WORD, asm.AD_PROTOCOL)
        code.jump(asm.IF_EQUAL, _ETH_P_IP, yes=v4)
        code.jump(asm.IF_EQUAL, _ETH_P_IPV6, yes=v6, no=not_ip)
        code.place(v4)
        _Section(code, [c.v4 for c in rules if c.v4], not_ip, mirrored).ipv4()
        code.place(v6)
        _Section(code, [c.v6 for c in rules if c.v6], not_ip, mirrored).ipv6()
    code.place(not_ip)
    _Section(code, [c.v4 for c in rules if c.v4 and not c.rule.is_about_ip], not_ip, mirrored).rules()
    return code.assemble()


def _length(code: Assembler) -> None:
    """M[_END]: how many bytes there are from the network header on."""
    ethernet, known = Label(), Label()
    code.op(asm.LD_WORD, asm.AD_DEVICE_TYPE)
    code.jump(asm.IF_EQUAL, _ARPHRD_ETHER, yes=ethernet)
    code.jump(asm.IF_EQUAL, _ARPHRD_LOOPBACK, yes=ethernet)
    code.op(asm.LD_LENGTH)
    code.goto(known)
    code.place(ethernet)
    code.op(asm.LD_LENGTH)
    code.op(asm.SUBTRACT, _ETH_HLEN)
    code.place(known)
    code.op(asm.STORE, _END)


class _Section:
    """The part of a program that deals with one IP version: reads what its rules need, then tries them in order."""

    def __init__(self, code: Assembler, rules: Sequence[FamilyRule], not_ip: Label, mirrored: bool) -> None:
        self._code = code
        self._rules = rules
        self._not_ip = not_ip
        self._mirrored = mirrored
        self._source_words = max((s.depth for r in rules for s in r.source), default=0)
        self._destination_words = max((s.depth for r in rules for s in r.destination), default=0)
        self._ported = frozenset[int]().union(*(r.protocols for r in rules if r.is_ported))
        near, far = (0, 2) if mirrored else (2, 0)
        self._ports = [
            (slot, offset)
            for slot, offset, wanted in (
                (_SOURCE_PORT, far, any(r.source_ports for r in rules)),
                (_PORT, near, any(r.ports for r in rules)),
            )
            if wanted
        ]
        self._needs_protocol = any(r.protocols for r in rules)

    def ipv4(self) -> None:
        """An IPv4 packet (RFC 791 3.1); options are what makes its header longer than 20 bytes."""
        code = self._code
        if not self._whole_header(_IPV4_HEADER):
            return
        self._addresses(source=12, destination=16)
        if self._needs_protocol:
            code.op(asm.LD_BYTE, asm.NETWORK_HEADER + 9)
            code.op(asm.STORE, _PROTOCOL)
        if self._ported:
            ported, none, known = Label(), Label(), Label()
            self._any_of(self._ported, ported, none)
            code.place(ported)
            code.op(asm.LD_HALF, asm.NETWORK_HEADER + 6)
            code.jump(asm.IF_ANY_BIT, 0x1FFF, yes=none)  # the fragment offset
            code.op(asm.LDX_HEADER_LENGTH, asm.NETWORK_HEADER)
            code.op(asm.X_TO_A)
            code.jump(asm.IF_AT_LEAST, _IPV4_HEADER, no=none)
            self._port_at_x(none, known)
        self.rules()

    def ipv6(self) -> None:
        """An IPv6 packet (RFC 8200 3), whose protocol and ports are behind its extension headers."""
        if not self._whole_header(_IPV6_HEADER):
            return
        self._addresses(source=8, destination=24)
        if self._needs_protocol:
            self._walk()
        self.rules()

    def rules(self) -> None:
        """The rules in order, each ending with its class; 0 after the last."""
        code = self._code
        for rule in self._rules:
            following = Label()
            self._rule(rule, following)
            code.op(asm.RETURN, int(rule.target))
            code.place(following)
        code.op(asm.RETURN, 0)

    # --- what the rules ask ----------------------------------------------------------------------------------------

    def _rule(self, rule: FamilyRule, otherwise: Label) -> None:
        """Goes on behind itself when all criteria hold."""
        code = self._code
        if rule.mark is not None and rule.mark.mask:
            code.op(asm.LD_WORD, asm.AD_MARK)
            if rule.mark.mask != _WORD_MAX:
                code.op(asm.AND, rule.mark.mask)
            code.jump(asm.IF_EQUAL, rule.mark.value, no=otherwise)
        # A port other than 0 says already that the protocol is one of those with ports.
        protocols = frozenset[int]() if rule.is_ported and rule.protocols == self._ported else rule.protocols
        for slot, spans, limit in (
            (_PROTOCOL, merged((p, p) for p in protocols), NO_PROTOCOL),
            (_PORT, rule.ports, 0xFFFF),
            (_SOURCE_PORT, rule.source_ports, 0xFFFF),
            (_DESTINATION, rule.destination, _WORD_MAX),
            (_SOURCE, rule.source, _WORD_MAX),
        ):
            if spans:
                held = Label()
                self._search(slot, spans, limit, held, otherwise)
                code.place(held)

    def _search(self, slot: int, spans: Spans, limit: int, yes: Label, no: Label) -> None:
        """Whether M[slot], at most ``limit``, is in one of the spans, and the words after it in what is below."""
        self._code.op(asm.LD_MEMORY, slot)
        self._within(slot, spans, 0, limit, yes, no)

    def _within(self, slot: int, spans: Spans, low: int, high: int, yes: Label, no: Label) -> None:
        """Binary search for A, known to be from ``low`` to ``high``."""
        code = self._code
        if len(spans) > 1:
            right = Label()
            middle = len(spans) // 2
            border = spans[middle].first
            code.jump(asm.IF_AT_LEAST, border, yes=right)
            self._within(slot, spans[:middle], low, border - 1, yes, no)
            code.place(right)
            self._within(slot, spans[middle:], border, high, yes, no)
            return
        (span,) = spans
        below = partial(self._search, slot + 1, span.below, _WORD_MAX, yes, no) if span.below else None
        hit = Label() if below else yes
        if (span.first, span.last) == (low, high):
            code.goto(hit)
        elif span.first == span.last:
            code.jump(asm.IF_EQUAL, span.first, hit, no)
        elif span.first == low:
            code.jump(asm.IF_GREATER, span.last, no, hit)
        else:
            if span.last < high:
                code.jump(asm.IF_GREATER, span.last, yes=no)
            code.jump(asm.IF_AT_LEAST, span.first, hit, no)
        if below:
            code.place(hit)
            below()

    # --- what is read ----------------------------------------------------------------------------------------------

    def _whole_header(self, size: int) -> bool:
        """Whether any rule is about IP; packets without the whole header are none of this section's."""
        if not (self._source_words or self._destination_words or self._needs_protocol):
            self._code.goto(self._not_ip)
            return False
        self._code.op(asm.LD_MEMORY, _END)
        self._code.jump(asm.IF_AT_LEAST, size, no=self._not_ip)
        return True

    def _addresses(self, source: int, destination: int) -> None:
        """The words of both addresses that some rule looks at, from these offsets."""
        if self._mirrored:
            source, destination = destination, source
        for slot, at, wanted in (
            (_SOURCE, source, self._source_words),
            (_DESTINATION, destination, self._destination_words),
        ):
            for word in range(wanted):
                self._code.op(asm.LD_WORD, asm.NETWORK_HEADER + at + 4 * word)
                self._code.op(asm.STORE, slot + word)

    def _any_of(self, protocols: frozenset[int], yes: Label, no: Label) -> None:
        self._within(_PROTOCOL, merged((p, p) for p in protocols), 0, NO_PROTOCOL, yes, no)

    def _port_at_x(self, none: Label, known: Label) -> None:
        """The ports that rules ask for, from the transport header at X, or 0 at ``none``; goes on behind itself."""
        code = self._code
        *first, (last_slot, last_offset) = self._ports
        code.op(asm.LD_MEMORY, _END)
        code.op(asm.SUBTRACT, _PORTS)
        code.jump(asm.IF_AT_LEAST_X, 0, no=none)
        for slot, offset in first:
            code.op(asm.LD_HALF_AT_X, asm.NETWORK_HEADER + offset)
            code.op(asm.STORE, slot)
        code.op(asm.LD_HALF_AT_X, asm.NETWORK_HEADER + last_offset)
        code.goto(known)
        code.place(none)
        code.op(asm.LD_IMMEDIATE, 0)
        for slot, _ in first:
            code.op(asm.STORE, slot)
        code.place(known)
        code.op(asm.STORE, last_slot)

    def _walk(self) -> None:
        """M[_PROTOCOL] and the ports of an IPv6 packet. At each step A is the next header's number and X its offset."""
        code = self._code
        arrived, later, unknown, none, known = Label(), Label(), Label(), Label(), Label()
        code.op(asm.LDX_IMMEDIATE, _IPV6_HEADER)
        code.op(asm.LD_BYTE, asm.NETWORK_HEADER + 6)
        for _ in range(MAX_EXTENSION_HEADERS):
            self._step(arrived, later, unknown)
        self._if_extension(unknown, arrived)
        code.place(later)  # a fragment that is not the first: its protocol is known, what it carries is not
        code.op(asm.LD_MEMORY, _WORD)
        code.op(asm.SHIFT_RIGHT, 24)
        told = Label()
        self._if_extension(unknown, told)
        code.place(told)
        code.op(asm.STORE, _PROTOCOL)
        code.goto(none)
        code.place(unknown)
        code.op(asm.LD_IMMEDIATE, NO_PROTOCOL)
        code.op(asm.STORE, _PROTOCOL)
        code.goto(none)
        code.place(arrived)
        code.op(asm.STORE, _PROTOCOL)
        if self._ported:
            ported = Label()
            self._any_of(self._ported, ported, none)
            code.place(ported)
            self._port_at_x(none, known)
        else:
            code.place(none)

    def _if_extension(self, yes: Label, no: Label) -> None:
        """Whether A is an extension header. The usual answer, TCP or UDP, comes first."""
        code = self._code
        code.jump(asm.IF_EQUAL, TCP, yes=no)
        code.jump(asm.IF_EQUAL, UDP, yes=no)
        for number in EXTENSION_HEADERS[:-1]:
            code.jump(asm.IF_EQUAL, number, yes=yes)
        code.jump(asm.IF_EQUAL, EXTENSION_HEADERS[-1], yes, no)

    def _step(self, arrived: Label, later: Label, unknown: Label) -> None:
        """Over one extension header; to ``arrived`` if there is none at X."""
        code = self._code
        extension, fragment, authentication, add = Label(), Label(), Label(), Label()
        self._if_extension(extension, arrived)
        code.place(extension)
        code.op(asm.STORE, _NEXT_HEADER)
        code.op(asm.LD_MEMORY, _END)
        code.op(asm.SUBTRACT, _EXTENSION_HEADER)
        code.jump(asm.IF_AT_LEAST_X, 0, no=unknown)
        code.op(asm.LD_WORD_AT_X, asm.NETWORK_HEADER)  # next header, length (8 bits each), fragment offset (13)
        code.op(asm.STORE, _WORD)
        code.op(asm.LD_MEMORY, _NEXT_HEADER)
        code.jump(asm.IF_EQUAL, FRAGMENT, yes=fragment)
        code.jump(asm.IF_EQUAL, AUTHENTICATION, yes=authentication)
        code.op(asm.LD_MEMORY, _WORD)
        code.op(asm.SHIFT_RIGHT, 13)
        code.op(asm.AND, 0xFF << 3)  # 8 bytes for each unit
        code.goto(add)
        code.place(authentication)
        code.op(asm.LD_MEMORY, _WORD)
        code.op(asm.SHIFT_RIGHT, 14)
        code.op(asm.AND, 0xFF << 2)  # 4 bytes for each unit
        code.goto(add)
        code.place(fragment)
        code.op(asm.LD_MEMORY, _WORD)
        code.jump(asm.IF_ANY_BIT, 0xFFF8, yes=later)
        code.op(asm.LD_IMMEDIATE, 0)
        code.place(add)
        code.op(asm.ADD, 8)  # which the lengths leave out: 1 unit of 8 or 2 of 4
        code.op(asm.ADD_X)
        code.op(asm.A_TO_X)
        code.op(asm.LD_MEMORY, _WORD)
        code.op(asm.SHIFT_RIGHT, 24)
