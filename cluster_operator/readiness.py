"""The conditions by which others judge any object: Ready, Reconciling and Stalled. Pure.

They say in the words of kstatus (sigs.k8s.io/cli-utils, pkg/kstatus), by which Flux and others wait, what Accepted and
Programmed say in ours. Stalled is what nobody mends by waiting: somebody has to change the policy, or a Pod.
"""

from __future__ import annotations

from typing import Final

Condition = tuple[str, str, str]
"""Status, reason, message."""

_WAITING: Final = ("Pending",)
"""Reasons for which a policy is not programmed that pass by themselves."""
_FAILING: Final = ("Failed",)
"""Those that do not. A Pod that nobody holds is neither: an agent may come, or not."""


def readiness(accepted: Condition, programmed: Condition) -> dict[str, Condition]:
    """The three, out of the conditions Accepted and Programmed."""
    _, reason, message = first = accepted if accepted[0] != "True" else programmed
    ready = "True" if first[0] == "True" else "False"
    waits = ready == "False" and first is programmed and reason in _WAITING
    stalled = ready == "False" and (first is accepted or reason in _FAILING)
    return {
        "Ready": (ready, reason, message),
        "Reconciling": ("True", reason, message) if waits else ("False", "Settled", "Nobody is at work on it."),
        "Stalled": ("True", reason, message) if stalled else ("False", "NotStalled", "Nothing in it has to be mended."),
    }
