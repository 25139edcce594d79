"""What this kernel, with these privileges, can do for us: found out by trying, where it can do no harm.

A thread of its own enters a new network namespace (unshare(2)), builds a small tree on that namespace's ``lo``, and
ends; the namespace goes with it. Version numbers and module lists would tell less: features are configured out, modules
are missing in container images, and seccomp forbids bpf(2) to some. Trying also makes the kernel load its modules, as
an installation would.

Without CAP_SYS_ADMIN no namespace can be made (a container with only NET_ADMIN): then the tree goes on a temporary
veth pair in the current namespace.
"""

from __future__ import annotations

import errno
from typing import Final

from tc_core import capability
from tc_core.bpf import mark_filter
from tc_core.capability import ALL_FEATURES, Classifier, Feature, Features, absent, present
from tc_core.compile import INNER_HANDLE, ROOT_HANDLE, leaf_handle, queue_handle
from tc_core.errors import KernelError
from tc_core.handles import Handle
from tc_core.kernel import AddClass, AddFilter, AddQdisc, Change, ReplaceFilter, SetLink
from tc_core.marks import class_mark
from tc_core.model import Bfifo, BpfFlavour, FqCodel, FwFilter, HtbClass, HtbQdisc
from tc_core.netlink import NetlinkKernel
from tc_core.scratch import in_scratch_namespace
from tc_core.units import ByteCount, Duration, Rate

__all__ = ["ALL_FEATURES", "Classifier", "Feature", "Features", "probe"]

_PROBE_LINK: Final = "podlane-probe"
_NO_PRIVILEGE: Final = "Run it as root or with CAP_NET_ADMIN."

_RATE: Final = Rate(8_000_000)
_BYTES: Final = ByteCount(16_000)
_FIFO_CLASS: Final = 1
_CODEL_CLASS: Final = 2


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
    """Build a tree piece by piece, on an interface that nobody needs."""

    def attempt(name: str, *changes: Change) -> Feature:
        try:
            for change in changes:
                kernel.apply(interface, change)
        except KernelError as error:
            return absent(name, error.detail, error.errno)
        return present(name, "works")

    inner = _class(INNER_HANDLE, ROOT_HANDLE)
    classes = [_class(leaf_handle(i), INNER_HANDLE) for i in (_FIFO_CLASS, _CODEL_CLASS)]
    htb = attempt(
        capability.HTB, AddQdisc(HtbQdisc(ROOT_HANDLE, 0x1FF)), AddClass(inner), *(AddClass(c) for c in classes)
    )
    if not htb.available:
        without = (absent(feature.name, "could not be tried without HTB") for feature in list(ALL_FEATURES)[1:])
        return Features(htb, *without)
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
    ebpf = mark_filter(ROOT_HANDLE, BpfFlavour.EBPF, [_FIFO_CLASS])
    classic = mark_filter(ROOT_HANDLE, BpfFlavour.CLASSIC, [_FIFO_CLASS])
    return Features(
        htb=htb,
        fw=attempt(capability.FW, AddFilter(fw)),
        ebpf=attempt(capability.EBPF, AddFilter(ebpf)),
        # In the place of the eBPF filter, if that is there.
        classic_bpf=attempt(capability.CLASSIC_BPF, ReplaceFilter(classic)),
        fq_codel=attempt(capability.FQ_CODEL, AddQdisc(codel)),
        bfifo=attempt(capability.BFIFO, AddQdisc(fifo)),
        gso_max_size=attempt(capability.GSO_MAX_SIZE, SetLink(gso_max_size=16384)),
    )


def _class(handle: Handle, parent: Handle) -> HtbClass:
    return HtbClass(handle, parent, _RATE, _RATE, _BYTES, _BYTES, prio=0, quantum=_BYTES)
