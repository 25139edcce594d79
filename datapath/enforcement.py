"""Whether what was installed is still there, and how often it is put back. See :mod:`datapath.data_plane`.

Another program with CAP_NET_ADMIN can empty a table or delete a qdisc at any time. The kernel announces most of this.
So a look costs a few system calls when there is no news, and each part is read again when there is, and from time to
time in any case. What is missing twice in a row is put back: some programs replace all rules in two steps, and while
the supervisor restores the capture its rules are missing for a moment.

Who takes it away again and again, wins: after :data:`MOST_REPAIRS` repairs with less than :data:`CALM_S` between them
nothing is put back until a policy is put in force again. Two programs that fight would only disturb the traffic.
"""

from __future__ import annotations

import random
import select
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from tc_core.netlink.codec import NetlinkError
from tc_core.netlink.notifications import ROUTING, TRAFFIC_CONTROL, Notifications

MOST_REPAIRS: Final = 5
"""Repairs in a row."""
CALM_S: Final = 60.0
"""Seconds after which a loss is not part of the same row any more."""

Part = str
"""One of :data:`PARTS`."""
RULES: Final = "rules"
ROUTES: Final = "routes"
CLASSES: Final = "classes"
PARTS: Final = (RULES, ROUTES, CLASSES)


class Repairs:
    """Decides about repairs. Pure; times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(PARTS, 0)
        """Repairs by part."""
        self.lost: tuple[str, ...] = ()
        """What is missing, one sentence each."""
        self.beaten = False
        """Whether nothing is put back any more."""
        self._row = 0
        self._last = float("-inf")

    def found(self, lost: Mapping[Part, Sequence[str]], now: float) -> frozenset[Part]:
        """Note what is missing; return the parts to put back now."""
        before, self.lost = bool(self.lost), tuple(sentence for each in lost.values() for sentence in each)
        if not self.lost or not before or self.beaten:
            return frozenset()
        if now - self._last >= CALM_S:
            self._row = 0
        self._row += 1
        self._last = now
        if self._row > MOST_REPAIRS:
            self.beaten = True
            return frozenset()
        for part in lost:
            self.counts[part] += 1
        return frozenset(lost)

    def begin_again(self) -> None:
        """A policy was put in force."""
        self.lost = ()
        self.beaten = False
        self._row = 0


class Changes(Protocol):
    """Tells of changes in the kernel."""

    def fileno(self) -> int | None:
        """A descriptor that is readable when there is news; None: it has to be asked each time."""

    def arrived(self) -> bool:
        """Whether there may have been a change since the last call."""

    def close(self) -> None:
        """Let go of its socket."""


class Watch:
    """Looks for what is missing in the network namespace of the thread that makes it. Its calls block.

    Make it before all is put in force: what is there then is known, and later changes are announced.
    """

    def __init__(
        self,
        repairs: Repairs,
        missing: Mapping[Part, Callable[[], Sequence[str]]],
        rules: Changes,
        read_every: float,
        now: float,
        inside: Callable[[], AbstractContextManager[None]] = nullcontext,
        ask_every: float = 0.0,
        about: Callable[[], Iterable[int]] | None = None,
    ) -> None:
        """``missing`` reads each part from the kernel. ``rules``: whether mangle rules may have changed. Both are
        called ``inside``, which enters the network namespace. ``ask_every``: seconds between two looks at what the
        kernel does not announce. ``about``: the numbers of the interfaces with the classes, where a network namespace
        has those of others as well.

        ``read_every``: seconds after which everything is read even if no change was noticed; sooner by up to a half,
        so that many network namespaces do not have their turn at once.
        """
        self._read_every = read_every * random.uniform(0.5, 1)
        self._repairs = repairs
        self._missing = missing
        self._about = about
        self._classes = _announced(*TRAFFIC_CONTROL)
        self._changed: dict[Part, Changes] = {RULES: rules, CLASSES: self._classes}
        if ROUTES in missing:
            self._changed[ROUTES] = _announced(*ROUTING)
        self._inside = inside
        self._ask_every = ask_every
        self._ask_at = now + random.uniform(0, ask_every)
        self._read_at = dict.fromkeys(PARTS, now)
        self._due = now + self._read_every
        self._lost: dict[Part, Sequence[str]] = {}
        numbers = [changed.fileno() for changed in self._changed.values()]
        self._all_announced = None not in numbers
        self._news = _any_of(number for number in numbers if number is not None)

    def look(self, now: float) -> frozenset[Part]:
        """Look, and return the parts to put back now. Raises what reading the kernel raises."""
        if self._is_quiet(now):
            return frozenset()
        self._ask_at = now + self._ask_every
        with self._inside():
            for part, changed in self._changed.items():
                again = part in self._lost and not self._repairs.beaten
                # All are asked for news, so that none is left for the next look.
                if changed.arrived() or again or now - self._read_at[part] >= self._read_every:
                    self._read_at[part] = now
                    if part == CLASSES and self._about is not None:
                        self._classes.only_about(self._about())
                    if lost := self._missing[part]():
                        self._lost[part] = lost
                    else:
                        self._lost.pop(part, None)
        self._due = min(self._read_at.values()) + self._read_every
        return self._repairs.found(self._lost, now)

    def _is_quiet(self, now: float) -> bool:
        """Whether there is nothing to do, by one system call: nearly always, in nearly all network namespaces."""
        asks = not self._all_announced and now >= self._ask_at
        return not asks and not self._lost and now < self._due and not self._news.poll(0)

    def close(self) -> None:
        """Close the sockets that hear of changes."""
        self._news.close()
        for changed in self._changed.values():
            changed.close()


class Unannounced:
    """Where the kernel announces nothing: everything is read each time."""

    def fileno(self) -> None: ...

    def only_about(self, interfaces: Iterable[int]) -> None: ...

    def arrived(self) -> bool:
        return True

    def close(self) -> None: ...


def _any_of(descriptors: Iterable[int]) -> select.epoll:
    """What tells whether any of them has news."""
    poll = select.epoll()
    for number in descriptors:
        poll.register(number, select.EPOLLIN)
    return poll


def _announced(protocol: int, groups: Sequence[int]) -> Notifications | Unannounced:
    try:
        return Notifications(protocol, groups)
    except NetlinkError:
        return Unannounced()
