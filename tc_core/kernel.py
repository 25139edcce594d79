"""What we ask of a kernel, and every change that we may ask for.

:class:`Kernel` has two implementations that pass the same suite of tests: :mod:`tc_core.rtnetlink.kernel` and
:mod:`tc_core.fake.kernel`. A change is a value; ``command(interface)`` is the tc(8) or ip(8) command that does the
same, for plans and for error messages.
"""

from __future__ import annotations

import errno
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

from tc_core.errors import InterfaceNotFoundError, KernelError
from tc_core.handles import ROOT, Handle
from tc_core.model import (
    Clsact,
    Filter,
    FqCodel,
    HtbClass,
    IngressQdisc,
    LeafQdisc,
    Link,
    Netem,
    Observed,
    OtherFilter,
    OurFilter,
    OurQdisc,
    Qdisc,
    RootQdisc,
)
from tc_core.netlink.codec import NetlinkError
from tc_core.stats import ClassStats


class _Change(ABC):
    """Common to all changes: how they read."""

    __slots__ = ()

    @abstractmethod
    def command(self, interface: str) -> str:
        """The tc(8) or ip(8) command that does the same."""

    def __str__(self) -> str:
        return self.command("DEV")


@dataclass(frozen=True, slots=True)
class AddQdisc(_Change):
    """Attach a qdisc; EEXIST when its place or handle is taken."""

    qdisc: OurQdisc

    def command(self, interface: str) -> str:
        return f"tc qdisc add dev {interface} {self.qdisc}"


@dataclass(frozen=True, slots=True)
class ChangeQdisc(_Change):
    """Alter a qdisc in place: what it has queued stays. EINVAL for kinds that cannot be altered (HTB, sfq)."""

    qdisc: RootQdisc | LeafQdisc

    def command(self, interface: str) -> str:
        match self.qdisc:
            case FqCodel():
                text = _without_flows(str(self.qdisc))
            case Netem():
                text = self.qdisc.spelled_out
            case _:
                text = str(self.qdisc)
        return f"tc qdisc change dev {interface} {text}"


def _without_flows(text: str) -> str:
    """fq_codel refuses ``flows`` in a change, even the number it has."""
    words = text.split()
    at = words.index("flows")
    return " ".join(words[:at] + words[at + 2 :])


@dataclass(frozen=True, slots=True)
class DeleteQdisc(_Change):
    """Take a qdisc away, with everything below it."""

    qdisc: Qdisc

    def command(self, interface: str) -> str:
        if isinstance(self.qdisc, Clsact | IngressQdisc):
            return f"tc qdisc del dev {interface} {self.qdisc}"
        if self.qdisc.parent == ROOT:
            return f"tc qdisc del dev {interface} root"
        return f"tc qdisc del dev {interface} parent {self.qdisc.parent} handle {self.qdisc.handle}"


@dataclass(frozen=True, slots=True)
class AddClass(_Change):
    """Make a class; EEXIST when its handle is taken."""

    traffic_class: HtbClass

    def command(self, interface: str) -> str:
        return f"tc class add dev {interface} {self.traffic_class}"


@dataclass(frozen=True, slots=True)
class ChangeClass(_Change):
    """Alter a class in place: its queue, its children and the filters that select it stay."""

    traffic_class: HtbClass

    def command(self, interface: str) -> str:
        return f"tc class change dev {interface} {self.traffic_class}"


@dataclass(frozen=True, slots=True)
class DeleteClass(_Change):
    """Remove a class and its queue; EBUSY while it has children or a filter is bound to it."""

    traffic_class: HtbClass

    def command(self, interface: str) -> str:
        return f"tc class del dev {interface} classid {self.traffic_class.handle}"


@dataclass(frozen=True, slots=True)
class AddFilter(_Change):
    """Attach a filter; EEXIST when its priority and handle are taken."""

    filter: OurFilter

    def command(self, interface: str) -> str:
        return f"tc filter add dev {interface} {self.filter}"


@dataclass(frozen=True, slots=True)
class ReplaceFilter(_Change):
    """Put a filter in the place of the one with its priority and handle, between two packets."""

    filter: OurFilter

    def command(self, interface: str) -> str:
        return f"tc filter replace dev {interface} {self.filter}"


@dataclass(frozen=True, slots=True)
class DeleteFilter(_Change):
    """Remove one filter; of other people's, all that :class:`OtherFilter` stands for."""

    filter: Filter

    def command(self, interface: str) -> str:
        if isinstance(self.filter, OtherFilter):
            return f"tc filter del dev {interface} {self.filter}"
        kind, prio, handle = self.filter.key
        return (
            f"tc filter del dev {interface} parent {self.filter.parent} protocol all prio {prio} "
            f"handle {handle:#x} {kind}"
        )


@dataclass(frozen=True, slots=True)
class SetLink(_Change):
    """Set what is named: ``gso_max_size`` in bytes (IPv4's own limit follows it), ``tx_queue_len`` in packets."""

    gso_max_size: int | None = None
    tx_queue_len: int | None = None
    up: bool | None = None

    def command(self, interface: str) -> str:
        words = [f"ip link set dev {interface}"]
        if self.gso_max_size is not None:
            words.append(f"gso_max_size {self.gso_max_size}")
        if self.tx_queue_len is not None:
            words.append(f"txqueuelen {self.tx_queue_len}")
        if self.up is not None:
            words.append("up" if self.up else "down")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class AddLink(_Change):
    """Make a virtual interface of this kind (ip-link(8), "TYPE") and set it up; EEXIST when the name is taken.

    ``alias`` is a text of at most 255 bytes, by which its maker can tell it from others (IFALIASZ, linux/if.h).
    """

    kind: str
    alias: str = ""

    def command(self, interface: str) -> str:
        alias = f"alias {shlex.quote(self.alias)} " if self.alias else ""
        return f"ip link add name {interface} type {self.kind} && ip link set dev {interface} {alias}up"


@dataclass(frozen=True, slots=True)
class DeleteLink(_Change):
    """Remove a virtual interface, with everything on it."""

    def command(self, interface: str) -> str:
        return f"ip link del dev {interface}"


Change = (
    AddQdisc
    | ChangeQdisc
    | DeleteQdisc
    | AddClass
    | ChangeClass
    | DeleteClass
    | AddFilter
    | ReplaceFilter
    | DeleteFilter
    | SetLink
    | AddLink
    | DeleteLink
)

Counters = Mapping[Handle, ClassStats]

_REMEDIES: Final = {
    errno.EPERM: "Run it as root or with CAP_NET_ADMIN, in the network namespace that has the interface.",
    errno.EBUSY: "Something else still uses it: look at `tc filter show` for filters that name the class.",
    errno.EEXIST: "Another program is changing this interface at the same time. Try again.",
    errno.EOPNOTSUPP: "The running kernel does not have this. `podlane check` tells what it has.",
}


class Kernel(Protocol):
    """Traffic control of the interfaces in one network namespace. All methods block for as long as the kernel takes.

    Methods that name an interface raise :class:`InterfaceNotFoundError` when there is none of that name (except to
    :class:`AddLink`), and :class:`KernelError` when the kernel refuses.
    """

    def observe(self, interface: str) -> Observed:
        """What is there now."""

    def apply(self, interface: str, change: Change) -> None:
        """Make one change."""

    def counters(self, interface: str) -> Counters:
        """The counters of every HTB class, by handle. Empty without HTB."""

    def qdisc_counters(self, interface: str) -> Counters:
        """The counters of every qdisc that has a handle, by that: what passed, and what its queue holds."""

    def interfaces(self) -> Mapping[str, Link]:
        """Every interface in the network namespace, by name."""

    def default_route_interface(self) -> str | None:
        """The interface of the preferred default route, IPv4 before IPv6; None without any."""

    def close(self) -> None:
        """Let go of what it holds. The kernel's state stays as it is."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def interface_not_found(interface: str, existing: Iterable[str]) -> InterfaceNotFoundError:
    """The error for a name that no interface has, with those that there are."""
    names = ", ".join(sorted(existing)) or "none at all"
    return InterfaceNotFoundError(
        f"There is no interface {interface!r} in this network namespace. It has: {names}. Name one of these."
    )


def refused(operation: str, code: int, words: str = "") -> KernelError:
    """The error for an operation that the kernel refused with an errno, in the kernel's own words where it has some."""
    return KernelError(operation, code, NetlinkError(code, words).detail, _REMEDIES.get(code, ""))
