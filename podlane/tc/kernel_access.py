"""Access to the kernel's traffic control, and its features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from podlane.errors import NotPermittedError

if TYPE_CHECKING:
    from tc_core.kernel import Kernel
    from tc_core.probe.capability import Features


def open_kernel(*, to_change: bool = False) -> Kernel:
    """Traffic control of this network namespace.

    Raises :class:`NotPermittedError` if a change is intended and this process lacks the permission, and
    :class:`tc_core.errors.KernelError` if netlink is not available.
    """
    from datapath.netfilter.backend import has_net_admin
    from tc_core.rtnetlink.kernel import NetlinkKernel

    if to_change and not has_net_admin():
        raise NotPermittedError(
            "Traffic control can be changed, and this kernel's abilities be tried, only with CAP_NET_ADMIN. "
            "Use sudo; in a container add NET_ADMIN to securityContext.capabilities (docker: --cap-add)."
        )
    return NetlinkKernel()


def probe_features() -> Features:
    """The features of this kernel, found by probing (:mod:`tc_core.probe.features`)."""
    from tc_core.probe import features

    return features.probe()
