"""What becomes of connections where there is no start: a first one that fails has no supervisor that would see to them.

Both end then, and whoever started them tries again. With ``on-failure: open`` nothing of ours stays, so that all go
direct. With ``closed`` what names decide is refused until there is a start: what that is, is known from the moment on
at which the policy could be read; before that it is what an earlier sidecar has captured.
"""

from __future__ import annotations

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
    """For a start that failed before it had any rules of its own. Raises nothing.

    ``wanted`` is the policy, None where it could not be read.
    """
    closed = on_failure_asked(settings) is OnFailure.CLOSED
    try:
        if closed:
            installer = Installer(detect_backend(settings.iptables))
            refuse(installer, wanted, mesh)
        else:
            # A killed predecessor's rules lead to a listener that will not come back.
            remove_leftovers(settings.interface)
    except PodlaneError as error:
        what = NOT_REFUSED if closed else "what an earlier sidecar may have left here could not be removed"
        log.warning(what, error=str(error))


def refuse(installer: Installer, wanted: Wanted | None, mesh: MeshProxy | None, interface: str | None = None) -> bool:
    """Have new connections refused that a proxy would take; whether it would take any, and its rules are to stay.

    Which these are the policy says, or where there is none the rules that are installed. ``interface`` is the shaped
    one, if it is known. A kernel that cannot refuse them (it lacks REJECT) is logged.

    Raises :class:`RulesetError`, :class:`PrivilegeError`.
    """
    if wanted is not None:
        _capture(installer, wanted, mesh, interface or wanted.settings.interface)
    commands = installer.refusing()
    problem = run_all([Action(each.argv, each.input) for each in commands])
    if problem is not None:
        # Their rules stay: without a listener TPROXY drops SYNs, which lets nothing go direct, either.
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
    """Install the policy's rules."""
    ids = ClassIds.assign(each.name for each in wanted.policy.classes)
    # Where the interface is not there the traffic that was meant leaves by another.
    interface = named if named in {name for _, name in if_nameindex()} else None

    def install(*, quic: bool) -> None:
        capture = data_plane_settings(wanted.settings, mesh).captured(interface=interface, quic=quic)
        installer.install(build_ruleset(wanted.policy, ids, capture))

    try:
        install(quic=True)
    except RulesetError:  # a kernel without queues, maybe
        install(quic=False)
