"""Network emulation: delay, loss and what else goes wrong on the way."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tc_core.handles import Handle
from tc_core.netlink.codec import attribute, attributes, number, u64
from tc_core.qdiscs.notation import attachment, tc_percent, tc_rate, tc_time
from tc_core.qdiscs.placed import Placed
from tc_core.qdiscs.wire import U32, chance, chance_ppm, ticks
from traffic_policy.units import Duration, Rate

NO_TIME: Final = Duration(0)
_MAX_JITTER_NS: Final = 2**31 - 1
"""The most jitter that netem's random numbers can have (tabledist() in sch_netem.c): it cuts what is above."""
_TC_TIME_STEP_NS: Final = 1000
"""tc(8) drops fractions of a microsecond, though netem keeps nanoseconds."""
_CORR, _REORDER, _CORRUPT, _RATE, _RATE64, _LATENCY64, _JITTER64 = 1, 3, 4, 6, 8, 10, 11
"""TCA_NETEM_*"""
_OPT: Final = struct.Struct("=IIIIII")
"""struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter; attributes follow."""
_CORRELATIONS: Final = struct.Struct("=III")
"""struct tc_netem_corr."""
_CORRELATED: Final = struct.Struct("=II")
"""struct tc_netem_reorder and struct tc_netem_corrupt: probability, correlation."""
_LINK: Final = struct.Struct("=IiIi")
"""struct tc_netem_rate: rate, packet_overhead, cell_size, cell_overhead."""


@dataclass(frozen=True, slots=True)
class Netem(Placed):
    """What a bad network does to packets, for rehearsals (tc-netem(8)).

    ``limit`` in packets, of which there must be enough for ``delay`` times the rate; ``jitter`` (at most 2.1 s) is the
    spread of the delay. Probabilities are parts per million of packets. ``reorder_ppm`` sends that part of every
    ``gap``-th packet at once, the others after ``delay``, without which there is nothing to reorder. ``rate`` None is
    unlimited.
    """

    limit: int = 1000
    delay: Duration = NO_TIME
    jitter: Duration = NO_TIME
    loss_ppm: int = 0
    duplicate_ppm: int = 0
    corrupt_ppm: int = 0
    reorder_ppm: int = 0
    gap: int = 1
    rate: Rate | None = None
    kind: str = field(default="netem", init=False)

    def agrees_with(self, other: object) -> bool:
        return (
            isinstance(other, Netem)
            and self._on_the_wire == other._on_the_wire
            and abs(self.delay.nanoseconds - other.delay.nanoseconds) < _TC_TIME_STEP_NS
            and abs(self._bounded_jitter - other._bounded_jitter) < _TC_TIME_STEP_NS
        )

    @property
    def bytes_per_second(self) -> int:
        """The rate as the kernel is told it: 0 is unlimited."""
        return self.rate.bytes_per_second if self.rate else 0

    @property
    def _on_the_wire(self) -> tuple[object, ...]:
        """Everything but times as the kernel keeps it: without reordering the gap means nothing."""
        gap = self.gap if self.reorder_ppm else 0
        chances = (self.loss_ppm, self.duplicate_ppm, self.corrupt_ppm, self.reorder_ppm, gap)
        return (self.place, self.limit, *chances, self.bytes_per_second)

    @property
    def _bounded_jitter(self) -> int:
        return min(self.jitter.nanoseconds, _MAX_JITTER_NS)

    def __str__(self) -> str:
        return self._text([words for words, matter in self._words() if matter])

    @property
    def spelled_out(self) -> str:
        """The same with what is 0: in a change, what is not named stays."""
        return self._text([words for words, _ in self._words()])

    def _text(self, words: list[str]) -> str:
        return f"{attachment(self.parent, self.handle)} netem limit {self.limit} {' '.join(words)}".rstrip()

    def _words(self) -> list[tuple[str, bool]]:
        """What is done to packets, and whether it is anything at all."""
        jitter = f" {tc_time(self.jitter)}" if self.jitter.nanoseconds else ""
        gap = f" gap {self.gap}" if self.reorder_ppm else ""
        return [
            (f"delay {tc_time(self.delay)}{jitter}", bool(self.delay.nanoseconds or jitter)),
            (f"loss {tc_percent(self.loss_ppm)}", bool(self.loss_ppm)),
            (f"duplicate {tc_percent(self.duplicate_ppm)}", bool(self.duplicate_ppm)),
            (f"corrupt {tc_percent(self.corrupt_ppm)}", bool(self.corrupt_ppm)),
            (f"reorder {tc_percent(self.reorder_ppm)}{gap}", bool(self.reorder_ppm)),
            (f"rate {tc_rate(self.rate) if self.rate else '0bit'}", self.rate is not None),
        ]

    def options(self, *, creating: bool) -> bytes:  # noqa: ARG002 - one interface for all qdiscs
        """TCA_OPTIONS. What others may have set is sent as the kernel's default: correlations."""
        rate = self.bytes_per_second
        # A gap alone means "all of them", which is not what a Netem without reordering says.
        gap = self.gap if self.reorder_ppm else 0
        chances = chance(self.loss_ppm), gap, chance(self.duplicate_ppm)
        return (
            _OPT.pack(ticks(self.delay), self.limit, *chances, ticks(self.jitter))
            + attribute(_CORR, _CORRELATIONS.pack(0, 0, 0))
            + attribute(_REORDER, _CORRELATED.pack(chance(self.reorder_ppm), 0))
            + attribute(_CORRUPT, _CORRELATED.pack(chance(self.corrupt_ppm), 0))
            + attribute(_RATE, _LINK.pack(min(rate, U32), 0, 0, 0))
            + (u64(_RATE64, rate) if rate > U32 else b"")
            + u64(_LATENCY64, self.delay.nanoseconds)
            + u64(_JITTER64, self.jitter.nanoseconds)
        )

    @classmethod
    def from_options(cls, handle: Handle, parent: Handle, options: bytes) -> Netem:
        """The qdisc that TCA_OPTIONS describe."""
        delay, limit, loss, gap, duplicate, jitter = _OPT.unpack_from(options)
        found = attributes(options, _OPT.size)
        reorder, corrupt = (_CORRELATED.unpack(found[kind])[0] if kind in found else 0 for kind in (_REORDER, _CORRUPT))
        rate = number(found, _RATE64, _LINK.unpack_from(found[_RATE])[0] if _RATE in found else 0)
        return cls(
            handle,
            parent,
            limit=limit,
            delay=Duration(number(found, _LATENCY64, delay)),
            jitter=Duration(number(found, _JITTER64, jitter)),
            loss_ppm=chance_ppm(loss),
            duplicate_ppm=chance_ppm(duplicate),
            corrupt_ppm=chance_ppm(corrupt),
            reorder_ppm=chance_ppm(reorder),
            gap=gap or 1,
            rate=Rate.from_bytes_per_second(rate) if rate else None,
        )
