"""Handles a failed start, for which no supervisor exists yet.

Either way the process ends, to be restarted by its parent. With ``on-failure: open`` nothing stays installed and all
connections go direct. With ``closed``, connections whose class depends on a name are refused until a start succeeds.
The policy says which these are, once it has been read; before that, they are the ones that an earlier sidecar captured.
"""

from __future__ import annotations

import os
from socket import if_nameindex
from typing import Final

from daemon.log import Logger
from datapath.cleanup import remove_leftovers
from datapath.errors import RulesetError
from datapath.mesh.types import MeshProxy
from datapath.netfilter.install import Installer, detect_backend
from datapath.netfilter.ruleset import build_ruleset
from sidecar.config.data_plane import data_plane_settings
from sidecar.config.loader import Wanted, on_failure_asked
from sidecar.config.settings import SidecarSettings
from sidecar.supervisor.commands import Action, run_all
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.settings import OnFailure

NOT_REFUSED: Final = "connections that names decide could not be refused, as on-failure closed wants it"

log = Logger()


def do_without_start(settings: SidecarSettings, wanted: Wanted | None = None, mesh: MeshProxy | None = None) -> None:
    """Clean up after a start that failed before it had installed any rules. Raises nothing.

    ``wanted`` is the policy, None if it could not be read.
    """
    closed = on_failure_asked(settings) is OnFailure.CLOSED
    try:
        if closed:
            installer = Installer(detect_backend(settings.iptables))
            refuse(installer, wanted, mesh)
        else:
            # The rules of a killed predecessor lead to a listener that no longer exists.
            remove_leftovers(settings.interface)
    except PodlaneError as error:
        what = NOT_REFUSED if closed else "what an earlier sidecar may have left here could not be removed"
        log.warning(what, error=str(error))


def refuse(installer: Installer, wanted: Wanted | None, mesh: MeshProxy | None, interface: str | None = None) -> bool:
    """Refuse new connections that a proxy would take. Return whether there are any, and the rules are to stay.

    The policy defines them or, without a policy, the installed rules. ``interface`` is the shaped interface, if known.
    If the kernel cannot refuse them (it lacks REJECT), this is logged.

    Raises :class:`RulesetError`, :class:`PrivilegeError`.
    """
    if wanted is not None:
        _capture(installer, wanted, mesh, interface or wanted.settings.interface)
    commands = installer.refusing()
    problem = run_all([Action(each.argv, each.input) for each in commands])
    if problem is not None:
        # Keep their rules: without a listener TPROXY drops SYNs, so nothing goes direct.
        log.error(NOT_REFUSED, error=problem, instead="they wait, or with step-aside go on by their port")
        return True
    refused = bool(commands) or installer.refused()
    if refused:
        log.error(
            "on-failure is closed: connections that names decide are refused until a sidecar is ready here",
            remedy="mend what follows, and start it again; `podlane sidecar --cleanup` lets them go direct",
        )
    return refused


def _capture(installer: Installer, wanted: Wanted, mesh: MeshProxy | None, named: str | None) -> None:
    """Install the capture rules of the policy."""
    ids = ClassIds.assign(each.name for each in wanted.policy.classes)
    # Without the interface, the traffic in question leaves by another one.
    interface = named if named in {name for _, name in if_nameindex()} else None

    def install(*, quic: bool) -> None:
        # No proxy, no sockets of it.
        capture = data_plane_settings(wanted.settings, mesh, os.getegid()).captured(interface=interface, quic=quic)
        installer.install(build_ruleset(wanted.policy, ids, capture))

    try:
        install(quic=True)
    except RulesetError:  # possibly a kernel without NFQUEUE
        install(quic=False)
