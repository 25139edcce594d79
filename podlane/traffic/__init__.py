"""What ``podlane tc`` does: looking at the traffic control of an interface, changing it, and what the history says.

:mod:`podlane.traffic.tree` and :mod:`podlane.traffic.words` are pure: what was read becomes a tree of lanes and its
words. What is done to an interface, and written down, is in :mod:`tc_core.apply`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from podlane.errors import NotPermittedError

if TYPE_CHECKING:
    from tc_core.capability import Features
    from tc_core.kernel import Kernel


def open_kernel(*, to_change: bool = False) -> Kernel:
    """Traffic control of this network namespace.

    Raises :class:`NotPermittedError` when it is to be changed and this process may not, and
    :class:`tc_core.errors.KernelError` when the kernel does not talk to us.
    """
    from sidecar.netfilter.backend import has_net_admin
    from tc_core.rtnetlink.kernel import NetlinkKernel

    if to_change and not has_net_admin():
        raise NotPermittedError(
            "Traffic control can be changed, and this kernel's abilities be tried, only with CAP_NET_ADMIN. "
            "Use sudo; in a container add NET_ADMIN to securityContext.capabilities (docker: --cap-add)."
        )
    return NetlinkKernel()


def probe_features() -> Features:
    """What this kernel can do, found out by trying (:mod:`tc_core.features`)."""
    from tc_core import features

    return features.probe()
