"""Is there a sidecar in this network namespace, and is this interface its business?

A running sidecar holds the abstract unix socket of :mod:`datapath.instance_lock`. To see that, it is looked for among
the namespace's sockets in /proc/net/unix (proc_net(5)): to try and bind it, as the sidecar does, would keep one that
starts just then from starting. Which interface it shapes shows in the tree: only a sidecar's goes by marks.
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
"""The name of the sidecar's lock as /proc shows it: @ stands for the zero byte of abstract names."""


class SidecarAtWorkError(PodlaneError):
    """A running sidecar shapes the interface, and would undo or be undone by what is asked for."""


def sidecar_runs_here(sockets: str | None = None) -> bool:
    """Whether a sidecar works in the calling thread's network namespace; ``sockets`` is the text of /proc/net/unix."""
    if sockets is None:
        try:
            sockets = _SOCKETS.read_text("utf-8", "replace")
        except OSError:
            return False
    return any(line.split()[-1] == _LOCK for line in sockets.splitlines() if line.strip())


def is_sidecars(observed: Observed, standing: Standing | None) -> bool:
    """Whether an interface has the tree of a sidecar that runs here; ``standing`` is what the history knows of it."""
    if not (isinstance(observed.root, HtbQdisc) and is_ours(observed) and sidecar_runs_here()):
        return False
    if observed.filters:
        return chosen_by_marks(observed.filters)
    # Without classes there is nothing to choose; a sidecar writes no history.
    return standing is None or standing.state is None


def observe_for_change(kernel: Kernel, interface: str, standing: Standing | None) -> ObservedInterface:
    """Look at an interface that is to be changed.

    Raises :class:`SidecarAtWorkError` when it belongs to a running sidecar, and what
    :func:`tc_core.apply.plan.observe_interface` does.
    """
    seen = observe_interface(kernel, interface)
    if is_sidecars(seen.leaving, standing):
        raise SidecarAtWorkError(
            f"A sidecar shapes {interface} in this network namespace. Change its policy file instead and send "
            "it SIGHUP, or stop it first."
        )
    return seen
