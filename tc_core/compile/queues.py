"""Selects the leaf qdisc of a class and its size. Pure.

A queue is sized in time at the class's ceil, so that it holds what keeps the class busy and no more: a larger one only
makes everybody wait (CNI plugins have shipped ones that turned 50 us into 10 ms).
"""

from __future__ import annotations

from typing import Final

from tc_core.errors import MissingFeatureError
from tc_core.handles import Handle
from tc_core.model import Bfifo, Cake, Diffserv, FqCodel, Isolation, LeafQdisc, Netem, Sfq
from tc_core.probe.capability import Feature, Features
from tc_core.qdiscs import DEFAULT_FQ_QUANTUM
from traffic_policy.policy import Queue, Rehearsal, ResolvedClass
from traffic_policy.units import ByteCount, Duration, Rate

PACKET: Final = 1514
"""Bytes of a full Ethernet packet as HTB counts it: 1,500 and the 14-byte header."""
SMALL_GSO: Final = 16384
"""The gso_max_size, in bytes, for links with FIFO leaves: a packet of another flow
waits behind fewer bytes."""

GSO_PACKET: Final = 65536
"""Bytes of the largest segment that TCP hands down at once, unless the link says less."""
_LONG_WAIT_SECONDS: Final = 0.0005
"""If the largest packet is sent in less time, at 1.05 Gbit/s and more, others can wait for it. Smaller packets would
double the CPU time per byte."""

_FIFO_SECONDS: Final = 0.010
"""Queueing delay of a full FIFO at the class's ceil."""
_SHORT_FIFO_SECONDS: Final = 0.004
"""The same where latency matters more than the last percent of throughput."""
_FIFO_CAP: Final = 256 * 2**20
"""Bytes: at 200 Gbit/s and more the queue is shorter in time; its limit is a 32-bit number."""
_FIFO_FLOOR: Final = 2 * (SMALL_GSO + 1024)
"""Bytes. A FIFO with less than one GSO packet's room would never pass one; the second keeps the link busy."""

_ARRIVING_SECONDS: Final = 0.050
_SHORT_ARRIVING_SECONDS: Final = 0.020
"""The same for what arrives: its sender hears of a full queue only by a loss."""
_ARRIVING_FLOOR: Final = 2 * (GSO_PACKET + 1024)
"""Bytes. Peers on the same node and receive offload hand in segments of up to 64 KiB, whatever our gso_max_size."""
_ARRIVING_ROOM: Final = 4 * GSO_PACKET
_ARRIVING_LONGEST_SECONDS: Final = 0.200
"""Where 50 ms are less than so many bytes, a FIFO gets them if they are less than so long: its sender loses a whole
segment of some 45 packets at a time, which has to be seldom. Measured at 10 Mbit/s with Reno: with room for two of them
up to 1.2 % of the packets are sent twice, with four 0.05 %."""

_CODEL_TARGET: Final = Duration(5_000_000)
_CODEL_INTERVAL: Final = Duration(100_000_000)
_SHORT_CODEL_TARGET: Final = Duration(2_000_000)
_SHORT_CODEL_INTERVAL: Final = Duration(40_000_000)
"""For paths within a data centre or a city: CoDel then reacts sooner, at some cost for flows across an ocean (RFC 8289
4.3: the interval is the largest round trip that should not suffer, the target 5 % of it)."""
_CODEL_LIMIT: Final = 10_240
"""Packets; the kernel's default. Memory is what really bounds the queue."""
_CODEL_FLOWS: Final = 256
"""Enough for one class of one Pod, at a quarter of the default's memory: 200 classes cost 4 MB of kernel memory."""
_CODEL_MEMORY_SECONDS: Final = 0.5
_CODEL_MEMORY_FLOOR: Final = 2**20
_CODEL_MEMORY_CAP: Final = 32 * 2**20
"""Bytes: half a second at the ceil, at least 1 MiB (a few dozen GSO packets), at most the kernel's default."""

_SFQ_SECONDS: Final = 0.050
"""Queueing delay of a full SFQ if one flow had it all; 127 packets are the most that one gets."""
_SFQ_PACKETS: Final = (32, 16_256)
"""Bounds of its limit: enough for a few flows, and what 128 flows of 127 packets can hold."""
_SFQ_PERTURB: Final = Duration(10_000_000_000)
"""Flows that hash to the same slot part ways after this (tc-sfq(8))."""

_NETEM_SPARE_SECONDS: Final = 0.1
"""Room for waiting packets, in addition to those in the emulated delay."""
_NETEM_PACKETS: Final = (1000, 1_000_000)
"""Bounds of its limit in packets: the kernel's default, and some gigabytes."""
_SMALL_PACKET: Final = 256
"""Bytes: a rehearsal of many small packets must not lose some for want of room."""


def queue_for(
    resolved: ResolvedClass, handle: Handle, parent: Handle, features: Features, *, arriving: bool = False
) -> LeafQdisc:
    """The queue of a class. Its size follows the ceil alone, so that a changed rate leaves it as it is.

    ``arriving``: of packets that others have made, and whose loss they have to make good across the network.

    Raises :class:`MissingFeatureError` when the policy asks for a qdisc that the kernel lacks, or for fairness on a
    kernel that has no fair queue at all.
    """
    ceil = resolved.ceil
    if resolved.rehearsal is not None:
        require(features.netem)
        return _netem(resolved.rehearsal, handle, parent, ceil)
    match _kind(resolved.queue, features):
        case Queue.FQ_CODEL:
            packet = GSO_PACKET if arriving else PACKET
            return _fq_codel(handle, parent, ceil, short=resolved.queue is Queue.LOW_LATENCY, packet=packet)
        case Queue.SFQ:
            least, most = _SFQ_PACKETS
            limit = min(most, max(least, ceil.bytes_in(_SFQ_SECONDS) // PACKET))
            return Sfq(handle, parent, limit, DEFAULT_FQ_QUANTUM, _SFQ_PERTURB)
        case Queue.CAKE:
            return Cake(handle, parent, diffserv=Diffserv.BESTEFFORT, isolation=Isolation.FLOWS)
        case _:
            short = resolved.queue is Queue.LOW_LATENCY
            if arriving:
                return Bfifo(handle, parent, _arriving_limit(ceil, short=short))
            return Bfifo(handle, parent, fifo_limit(ceil, _SHORT_FIFO_SECONDS if short else _FIFO_SECONDS))


def wants_small_gso(queue: LeafQdisc, ceil: Rate) -> bool:
    """Whether a packet in this queue, served at its ceil, waits long for a large one of another flow before it."""
    return isinstance(queue, Bfifo | Sfq) and ceil.bytes_in(_LONG_WAIT_SECONDS) < GSO_PACKET


def require(feature: Feature) -> None:
    """Raise :class:`MissingFeatureError` unless the kernel has it."""
    if not feature.available:
        raise MissingFeatureError(f"This policy needs {feature.name}: {feature.reason}.", feature.remedy)


def fifo_limit(ceil: Rate, seconds: float = _FIFO_SECONDS, floor: int = _FIFO_FLOOR) -> ByteCount:
    """How many bytes wait in a FIFO that is served at this rate."""
    return ByteCount(min(_FIFO_CAP, max(floor, ceil.bytes_in(seconds))))


def _arriving_limit(ceil: Rate, *, short: bool) -> ByteCount:
    """How many bytes of what arrives wait in a FIFO."""
    if short:
        return fifo_limit(ceil, _SHORT_ARRIVING_SECONDS, _ARRIVING_FLOOR)
    room = min(_ARRIVING_ROOM, ceil.bytes_in(_ARRIVING_LONGEST_SECONDS))
    return fifo_limit(ceil, _ARRIVING_SECONDS, max(_ARRIVING_FLOOR, room))


def _kind(wish: Queue, features: Features) -> Queue:
    """The qdisc for a wish, of those that the kernel has."""
    named = {Queue.FQ_CODEL: features.fq_codel, Queue.SFQ: features.sfq, Queue.CAKE: features.cake}
    if wish in named:
        require(named[wish])
        return wish
    if wish is Queue.FIFO:
        return wish
    if wish is Queue.FAIR:
        for kind, feature in named.items():
            if feature.available:
                return kind
        raise MissingFeatureError(
            "This kernel has no queue that is fair to flows (fq_codel, sfq or cake).",
            "Load one on the node (modprobe sch_fq_codel), or write queue: auto.",
        )
    return Queue.FQ_CODEL if features.fq_codel.available else Queue.FIFO


def _fq_codel(handle: Handle, parent: Handle, ceil: Rate, *, short: bool, packet: int) -> FqCodel:
    # RFC 8290 5.2.2: the target must not be below the time that one packet takes; the interval follows. What arrives
    # may be segments of 64 KiB, each of them one packet here, and 45 to be sent again when it is dropped. (Linux 6.1 at
    # 10 Mbit/s: 3.7 % are sent twice with a target of 5 ms, 0.3 % with this.)
    packet_ns = packet * 8 * 10**9 * 3 // 2 // ceil.bits_per_second
    target = max(_SHORT_CODEL_TARGET if short else _CODEL_TARGET, Duration(packet_ns // 1000 * 1000))
    memory = min(_CODEL_MEMORY_CAP, max(_CODEL_MEMORY_FLOOR, ceil.bytes_in(_CODEL_MEMORY_SECONDS)))
    return FqCodel(
        handle=handle,
        parent=parent,
        limit=_CODEL_LIMIT,
        target=target,
        interval=max(_SHORT_CODEL_INTERVAL if short else _CODEL_INTERVAL, Duration(2 * target.nanoseconds)),
        memory_limit=ByteCount(memory),
        flows=_CODEL_FLOWS,
    )


def _netem(rehearsal: Rehearsal, handle: Handle, parent: Handle, ceil: Rate) -> Netem:
    delay, jitter = rehearsal.delay or Duration(0), rehearsal.jitter or Duration(0)
    under_way = ceil.bytes_in(delay.seconds + jitter.seconds + _NETEM_SPARE_SECONDS) // _SMALL_PACKET
    least, most = _NETEM_PACKETS
    return Netem(
        handle,
        parent,
        limit=min(most, max(least, under_way)),
        delay=delay,
        jitter=jitter,
        loss_ppm=rehearsal.loss.parts_per_million if rehearsal.loss else 0,
        duplicate_ppm=rehearsal.duplicate.parts_per_million if rehearsal.duplicate else 0,
        corrupt_ppm=rehearsal.corrupt.parts_per_million if rehearsal.corrupt else 0,
    )
