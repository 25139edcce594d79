"""What this kernel, with these privileges, can do for us: found out by trying, where it can do no harm.

A thread of its own enters a new network namespace (unshare(2)), builds small trees on that namespace's ``lo``, and
ends; the namespace goes with it. Version numbers and module lists would tell less: features are configured out, modules
are missing in container images, and seccomp forbids bpf(2) to some. Trying also makes the kernel load its modules, as
an installation would.

Without CAP_SYS_ADMIN no namespace can be made (a container with only NET_ADMIN): then the trees go on a temporary
veth pair in the current namespace.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Final

from tc_core.bpf.mark_classifier import mark_filter
from tc_core.bpf.socket_program import socket_redirect
from tc_core.compile.mark_tree import INNER_HANDLE, ROOT_HANDLE, leaf_handle, queue_handle
from tc_core.errors import KernelError
from tc_core.handles import ROOT, Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddLink,
    AddQdisc,
    Change,
    DeleteLink,
    DeleteQdisc,
    ReplaceFilter,
    SetLink,
)
from tc_core.model import INGRESS_HOOK, FwFilter, HtbClass, RedirectFilter
from tc_core.probe import capability
from tc_core.probe.capability import ALL_FEATURES, Feature, Features, MarkClassifier, absent, present
from tc_core.probe.scratch import in_scratch_namespace
from tc_core.qdiscs import NO_TIME, Bfifo, Cake, Clsact, FqCodel, HtbQdisc, Netem, Prio, RootQdisc, Sfq, Tbf
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.marks import class_mark
from traffic_policy.units import ByteCount, Duration, Rate

__all__ = ["ALL_FEATURES", "Feature", "Features", "MarkClassifier", "probe"]

_PROBE_LINK: Final = "podlane-probe"
_PROBE_IFB: Final = "podlane-ifb"
_NO_PRIVILEGE: Final = "Run it as root or with CAP_NET_ADMIN."

_RATE: Final = Rate(8_000_000)
_BYTES: Final = ByteCount(16_000)
_FIFO_CLASS: Final = 1
_CODEL_CLASS: Final = 2
_ROOT: Final = HtbQdisc(ROOT_HANDLE, 0x1FF)


def probe() -> Features:
    """Try everything; takes some milliseconds, and longer once when the kernel has to load modules.

    Raises nothing for what is missing: that is the answer. Nothing stays behind.
    """
    try:
        return in_scratch_namespace(_probe_loopback)
    except OSError:
        return _probe_on_temporary_link()


def _probe_loopback() -> Features:
    with NetlinkKernel() as kernel:
        return _try_everything(kernel, "lo")


def _probe_on_temporary_link() -> Features:
    try:
        with NetlinkKernel() as kernel, kernel.temporary_link(_PROBE_LINK):
            return _try_everything(kernel, _PROBE_LINK)
    except KernelError as error:
        reason, code = error.detail, error.errno

        def untried(name: str) -> Feature:
            remedy = _NO_PRIVILEGE if code == errno.EPERM else capability.REMEDIES[name]
            return Feature(name, False, f"could not be tried: {reason}", remedy, code)

        return Features(*(untried(feature.name) for feature in ALL_FEATURES))


def _try_everything(kernel: NetlinkKernel, interface: str) -> Features:
    """Build trees piece by piece on a scratch interface."""

    def attempt(name: str, *changes: Change) -> Feature:
        try:
            for change in changes:
                kernel.apply(interface, change)
        except KernelError as error:
            return absent(name, error.detail, error.errno)
        return present(name, "works")

    def attempt_root(name: str, root: RootQdisc | Sfq) -> Feature:
        return attempt(name, AddQdisc(root), DeleteQdisc(root))

    htb, *shaping = _try_shaping(attempt)
    if htb.available:
        kernel.apply(interface, DeleteQdisc(_ROOT))
    roots = (
        attempt_root(capability.TBF, Tbf(ROOT_HANDLE, ROOT, _RATE, _BYTES, _BYTES)),
        attempt_root(capability.SFQ, Sfq(ROOT_HANDLE, ROOT, 100, _BYTES, NO_TIME)),
        attempt_root(capability.CAKE, Cake(ROOT_HANDLE, ROOT, _RATE)),
        attempt_root(capability.PRIO, Prio(ROOT_HANDLE, ROOT)),
        attempt_root(capability.NETEM, Netem(ROOT_HANDLE, ROOT)),
    )
    clsact = attempt(capability.CLSACT, AddQdisc(Clsact()))
    redirect = attempt(capability.REDIRECT, AddFilter(RedirectFilter(INGRESS_HOOK, interface)))
    # In the place of the redirection, as when a policy changes.
    connmark = attempt(capability.CONNMARK, ReplaceFilter(RedirectFilter(INGRESS_HOOK, interface, connmark=True)))
    sockets = attempt(capability.SOCKETS, ReplaceFilter(socket_redirect(interface, frozenset({_FIFO_CLASS}))))
    if not clsact.available:
        redirect, connmark, sockets = (
            absent(name, "could not be tried without clsact")
            for name in (capability.REDIRECT, capability.CONNMARK, capability.SOCKETS)
        )
    found = [htb, *shaping, *roots, clsact, _try_ifb(kernel), redirect, connmark, sockets]
    return Features(*found)


def _try_shaping(attempt: Callable[..., Feature]) -> Iterator[Feature]:
    """The features from ``htb`` to ``gso_max_size``, in their order, on a tree that stays as far as it got."""
    inner = _class(INNER_HANDLE, ROOT_HANDLE)
    classes = [_class(leaf_handle(i), INNER_HANDLE) for i in (_FIFO_CLASS, _CODEL_CLASS)]
    htb = attempt(capability.HTB, AddQdisc(_ROOT), AddClass(inner), *(AddClass(c) for c in classes))
    yield htb
    if not htb.available:
        names = (capability.FW, capability.CLASSIC_BPF, capability.FQ_CODEL, capability.BFIFO)
        yield from (absent(name, "could not be tried without HTB") for name in (*names, capability.GSO_MAX_SIZE))
        return
    fifo = Bfifo(queue_handle(_FIFO_CLASS), leaf_handle(_FIFO_CLASS), _BYTES)
    codel = FqCodel(
        queue_handle(_CODEL_CLASS),
        leaf_handle(_CODEL_CLASS),
        limit=100,
        target=Duration.from_seconds(0.005),
        interval=Duration.from_seconds(0.1),
        memory_limit=ByteCount(2**20),
    )
    fw = FwFilter(ROOT_HANDLE, class_mark(_FIFO_CLASS), leaf_handle(_FIFO_CLASS))
    yield attempt(capability.FW, AddFilter(fw))
    yield attempt(capability.CLASSIC_BPF, AddFilter(mark_filter(ROOT_HANDLE, [_FIFO_CLASS])))
    yield attempt(capability.FQ_CODEL, AddQdisc(codel))
    yield attempt(capability.BFIFO, AddQdisc(fifo))
    yield attempt(capability.GSO_MAX_SIZE, SetLink(gso_max_size=16384))


def _try_ifb(kernel: NetlinkKernel) -> Feature:
    """Make an ifb and remove it; one that an aborted run left counts as well."""
    try:
        try:
            kernel.apply(_PROBE_IFB, AddLink("ifb"))
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
        kernel.apply(_PROBE_IFB, DeleteLink())
    except KernelError as error:
        return absent(capability.IFB, error.detail, error.errno)
    return present(capability.IFB, "works")


def _class(handle: Handle, parent: Handle) -> HtbClass:
    return HtbClass(handle, parent, _RATE, _RATE, _BYTES, _BYTES, prio=0, quantum=_BYTES)
