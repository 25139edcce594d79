"""Removal of what an earlier sidecar may have left in this network namespace."""

from __future__ import annotations

from contextlib import ExitStack

from daemon.log import Logger
from datapath.ebpf.lane import remove_programs
from datapath.errors import ConntrackError
from datapath.instance_lock import hold_instance_lock
from datapath.netfilter.install import Installer, detect_backend
from datapath.netfilter.nfqueue_rules import SAVE, save_rules
from datapath.netfilter.select import holders
from datapath.stepaside.server import clear_marks
from tc_core.apply.execute import clear
from tc_core.rtnetlink.kernel import NetlinkKernel
from traffic_policy.policy import TransportProtocol
from traffic_policy.settings import OnFailure

log = Logger()


def cleanup(interface: str | None) -> None:
    """Remove what an earlier sidecar left in this network namespace, by any backend. Nothing to remove is no error.

    ``interface`` is the shaped one, the default route's when None. Raises the errors of :mod:`tc_core.errors` and
    :mod:`datapath.errors`, the first :class:`InstanceRunningError`.
    """
    with hold_instance_lock():
        remove_leftovers(interface)


def remove_leftovers(interface: str | None) -> None:
    """Remove programs, rules, then marks and classes; the latter also when removing the rules fails."""
    with ExitStack() as steps:
        steps.callback(_remove_classes, interface)
        steps.callback(clear_stepaside_marks)
        for backend in holders() or [detect_backend()]:
            steps.callback(Installer(backend).remove)
        steps.callback(_remove_programs, interface)


def remove_rules_of_others(installer: Installer) -> None:
    """Remove what a predecessor with rules has left, now that programs decide."""
    aside = any(installer.has_rule(SAVE, rule) for rule in save_rules((TransportProtocol.TCP,)))
    installer.remove()
    if aside:
        clear_stepaside_marks()


def clear_step_aside(installer: Installer, on_failure: OnFailure) -> None:
    """Clear step-aside marks of a killed predecessor: the relay's rules would take them for captured connections.

    Its rules stay until ours replace them if they refuse all that they capture: then there are no new marks.
    """
    if any(installer.has_rule(SAVE, rule) for rule in save_rules((TransportProtocol.TCP,))):
        closed = on_failure is OnFailure.CLOSED
        if not closed or installer.refusing() or not installer.refused():
            installer.remove()
        clear_stepaside_marks()


def clear_stepaside_marks() -> None:
    """Clear the marks of step-aside connections. A failure is harmless: without our rules nothing reads them."""
    try:
        clear_marks()
    except ConntrackError as error:
        log.warning("marks of connections stay", error=str(error))


def _remove_programs(interface: str | None) -> None:
    with NetlinkKernel() as kernel:
        named = interface or kernel.default_route_interface()
    if named is not None:
        remove_programs(named)


def _remove_classes(interface: str | None) -> None:
    with NetlinkKernel() as kernel:
        named = interface or kernel.default_route_interface()
        if named is not None:
            clear(kernel, named)
