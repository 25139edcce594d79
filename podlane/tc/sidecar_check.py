"""Detects a sidecar in this network namespace that shapes the interface.

A running sidecar holds the abstract unix socket of :mod:`datapath.instance_lock`. It is looked up among the namespace's
sockets in /proc/net/unix (proc_net(5)): trying to bind it, as the sidecar does, would prevent a sidecar from starting
at that moment. The shaped interface is known by its tree: only a sidecar's classifies by marks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from podlane.tc.words import chosen_by_marks
from tc_core.apply.plan import ObservedInterface, observe_interface
from tc_core.diff import is_ours
from tc_core.history import Standing
from tc_core.kernel import Kernel
from tc_core.model import HtbQdisc, Observed
from traffic_policy.errors import PodlaneError

_SOCKETS: Final = Path("/proc/thread-self/net/unix")
_LOCK: Final = "@podlane/sidecar"
"""The name of the sidecar's lock in /proc: @ stands for the zero byte of abstract names."""


class SidecarAtWorkError(PodlaneError):
    """A running sidecar shapes the interface; its changes and the requested one would conflict."""


def sidecar_runs_here(sockets: str | None = None) -> bool:
    """Whether a sidecar runs in the calling thread's network namespace; ``sockets`` is the text of /proc/net/unix."""
    if sockets is None:
        try:
            sockets = _SOCKETS.read_text("utf-8", "replace")
        except OSError:
            return False
    return any(line.split()[-1] == _LOCK for line in sockets.splitlines() if line.strip())


def is_sidecars(observed: Observed, standing: Standing | None) -> bool:
    """Whether an interface has the tree of a sidecar that runs here; ``standing`` is the history's knowledge of it."""
    if not (isinstance(observed.root, HtbQdisc) and is_ours(observed) and sidecar_runs_here()):
        return False
    if observed.filters:
        return chosen_by_marks(observed.filters)
    # Without classes there is nothing to classify; a sidecar keeps no history.
    return standing is None or standing.state is None


def observe_for_change(kernel: Kernel, interface: str, standing: Standing | None) -> ObservedInterface:
    """Read an interface that is to be changed.

    Raises :class:`SidecarAtWorkError` if it belongs to a running sidecar, and the errors of
    :func:`tc_core.apply.plan.observe_interface`.
    """
    seen = observe_interface(kernel, interface)
    if is_sidecars(seen.leaving, standing):
        raise SidecarAtWorkError(
            f"A sidecar shapes {interface} in this network namespace. Change its policy file instead and send "
            "it SIGHUP, or stop it first."
        )
    return seen
