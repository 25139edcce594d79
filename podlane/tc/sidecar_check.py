"""Detects a sidecar in this network namespace that shapes the interface.

A running sidecar holds the lock of :mod:`datapath.instance_lock`. The shaped interface is known by its tree: only a
sidecar's classifies by marks.
"""

from __future__ import annotations

from datapath.instance_lock import instance_running
from podlane.tc.words import chosen_by_marks
from tc_core.apply.plan import ObservedInterface, observe_interface
from tc_core.diff import is_ours
from tc_core.history import Standing
from tc_core.kernel import Kernel
from tc_core.model import HtbQdisc, Observed
from traffic_policy.errors import PodlaneError


class SidecarAtWorkError(PodlaneError):
    """A running sidecar shapes the interface; its changes and the requested one would conflict."""


def sidecar_runs_here() -> bool:
    """Whether a sidecar runs in the calling thread's network namespace. Who may not know, without CAP_NET_ADMIN, takes
    what looks like a sidecar's for one's."""
    return instance_running() is not False


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
