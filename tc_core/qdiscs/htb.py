"""HTB: a tree of classes, each with a guarantee and a ceiling (tc-htb(8))."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import ROOT, Handle
from tc_core.netlink.codec import attribute, attributes, number, u32, u64
from tc_core.qdiscs.notation import attachment, same_burst, tc_rate
from tc_core.qdiscs.wire import RATE_SPEC, U32, burst_bytes, burst_ticks, rate_spec
from traffic_policy.units import ByteCount, Rate

DEFAULT_R2Q: Final = 10
"""HTB's rate-to-quantum divisor (tc-htb(8)), used only by classes without a quantum of their own; ours all have one."""

_PARMS, _INIT, _DIRECT_QLEN, _RATE64, _CEIL64 = 1, 2, 5, 6, 7
"""TCA_HTB_*"""
_GLOB: Final = struct.Struct("=IIIII")
"""struct tc_htb_glob: version, rate2quantum, defcls, debug, direct_pkts."""
_OPT: Final = struct.Struct(f"={RATE_SPEC}{RATE_SPEC}IIIII")
"""struct tc_htb_opt: rate, ceil, buffer, cbuffer, quantum, level, prio."""
_VERSION: Final = 3


@dataclass(frozen=True, slots=True)
class HtbQdisc:
    """An HTB root. ``default_minor`` names the class of unclassified packets, ``direct_qlen`` is in packets.

    ``r2q`` has no effect on classes with an explicit quantum, and all of ours have one. :mod:`tc_core.diff` keeps the
    interface's previous ``gso_max_size`` in it, so that removal can restore it even after a restart: the kernel keeps
    the number exactly as long as the tree that made the change.
    """

    handle: Handle
    default_minor: int
    r2q: int = DEFAULT_R2Q
    direct_qlen: int = 1000
    parent: Handle = ROOT
    kind: str = field(default="htb", init=False)

    def agrees_with(self, other: object) -> bool:
        """HTB cannot be altered once it is there, and r2q and direct_qlen mean nothing to a complete tree of ours."""
        return (
            isinstance(other, HtbQdisc)
            and (self.handle, self.parent) == (other.handle, other.parent)
            and self.default_minor == other.default_minor
        )

    def can_become(self, other: object) -> bool:  # noqa: ARG002 - one interface for all qdiscs
        """Never: HTB has no change operation."""
        return False

    def __str__(self) -> str:
        return (
            f"{attachment(self.parent, self.handle)} htb default {self.default_minor:x} r2q {self.r2q} "
            f"direct_qlen {self.direct_qlen}"
        )

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """TCA_OPTIONS."""
        glob = _GLOB.pack(_VERSION, self.r2q, self.default_minor, 0, 0)
        return attribute(_INIT, glob) + u32(_DIRECT_QLEN, self.direct_qlen)

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> HtbQdisc:
        """The qdisc that TCA_OPTIONS describe."""
        found = attributes(options)
        _, r2q, default_minor, *_ = _GLOB.unpack(found[_INIT])
        return cls(handle, default_minor, r2q, number(found, _DIRECT_QLEN), parent)


@dataclass(frozen=True, slots=True)
class HtbClass:
    """An HTB class (tc-htb(8)). ``quantum`` and ``prio`` count only for leaves; ``is_inner`` has children."""

    handle: Handle
    parent: Handle
    rate: Rate
    ceil: Rate
    burst: ByteCount
    cburst: ByteCount
    prio: int
    quantum: ByteCount
    is_inner: bool = False

    def agrees_with(self, other: HtbClass) -> bool:
        """Whether ``other``, read from the kernel, is this class. Quantum and priority of inner classes do nothing."""
        return (
            (self.handle, self.parent, self.rate, self.ceil) == (other.handle, other.parent, other.rate, other.ceil)
            and same_burst(self.rate, self.burst, other.burst)
            and same_burst(self.ceil, self.cburst, other.cburst)
            and (self.is_inner or (self.prio, self.quantum) == (other.prio, other.quantum))
        )

    def __str__(self) -> str:
        lending = "" if self.is_inner else f" prio {self.prio}"
        return (
            f"parent {self.parent} classid {self.handle} htb rate {tc_rate(self.rate)} ceil {tc_rate(self.ceil)} "
            f"burst {self.burst.count}b cburst {self.cburst.count}b quantum {self.quantum.count}{lending}"
        )

    def options(self) -> bytes:
        """TCA_OPTIONS."""
        rate, ceil = self.rate.bytes_per_second, self.ceil.bytes_per_second
        buffers = burst_ticks(self.rate, self.burst), burst_ticks(self.ceil, self.cburst)
        parms = _OPT.pack(*rate_spec(rate), *rate_spec(ceil), *buffers, self.quantum.count, 0, self.prio)
        beyond = (u64(kind, value) for kind, value in ((_RATE64, rate), (_CEIL64, ceil)) if value > U32)
        return attribute(_PARMS, parms) + b"".join(beyond)

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> HtbClass:
        """The class that TCA_OPTIONS describe."""
        found = attributes(options)
        *specs, buffer, cbuffer, quantum, level, prio = _OPT.unpack(found[_PARMS])
        rate = Rate.from_bytes_per_second(number(found, _RATE64, specs[5]))
        ceil = Rate.from_bytes_per_second(number(found, _CEIL64, specs[11]))
        return cls(
            handle=handle,
            # The kernel says "root" where the parent is the qdisc itself.
            parent=Handle(handle.major) if parent == ROOT else parent,
            rate=rate,
            ceil=ceil,
            burst=burst_bytes(rate, buffer),
            cburst=burst_bytes(ceil, cbuffer),
            prio=prio,
            quantum=ByteCount(quantum),
            is_inner=level > 0,
        )
