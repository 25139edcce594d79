"""``podlane run``: runs a command in a network namespace of its own, under a policy."""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from podlane.console import NOT_EXECUTABLE, NOT_FOUND, RUN_FAILED, failing_clearly, stop
from podlane.options import datapath_option, iptables_option, total_option, workers_option
from traffic_policy.settings import variable
from traffic_policy.units import Rate

if TYPE_CHECKING:
    from podlane.netns.spawn import UserIdentity

_MOST_CONNECTIONS: Final = 10_000
"""More connections than one command has; the proxy's own default."""
_SPARE_DESCRIPTORS: Final = 1024
"""Open files of the proxy in addition to two for each connection: pipes for bulk data, listeners, its own."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,30}[A-Za-z0-9])?")


def _name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not a name. Use up to 32 letters, digits, '-' and '_'.")
    return f"podlane-{value or os.getpid()}"


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  sudo podlane run --policy policy.yaml -- curl -O https://example.com/file
  sudo podlane run --policy policy.yaml --total 50Mbit -- bash
  sudo podlane run --policy policy.yaml --user www-data -- rsync -a /srv backup.example.com::srv

\b
While it runs:
  ip netns                                   lists the namespace, podlane-PID or podlane-NAME
  sudo ip netns exec podlane-PID tc -s class show dev eth0
  sudo ip netns exec podlane-PID ss -ti

\b
Exit code: COMMAND's own (128 + the number of a signal that ended it); 2 when the policy or an option
cannot be used, 125 when podlane itself failed, 126 when COMMAND cannot be executed, 127 when it is
not found.
""",
)
@click.option("--policy", "policy_file", required=True, metavar="FILE", help="Policy file (YAML or JSON).")
@total_option
@click.option("--user", metavar="NAME", help="Run COMMAND as this user.  [default: whoever called sudo, else root]")
@click.option("--name", callback=_name, metavar="NAME", help="Name the namespace podlane-NAME.  [default: podlane-PID]")
@click.option("--ipv6", is_flag=True, help="Let IPv6 out as well; makes the host forward IPv6 for that time.")
@datapath_option("Relay what names decide, read first packets and step aside, or do so by eBPF.  [default: relay]")
@iptables_option("Install COMMAND's rules by iptables-restore or by python-iptables.  [default: auto, what is there]")
@workers_option()
@click.option("--summary/--no-summary", default=True, help="Print what each class sent, at the end.  [default: yes]")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="From which severity on the proxy's log lines are shown.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    policy_file: str,
    total: Rate | None,
    user: str | None,
    name: str,
    ipv6: bool,
    datapath: str | None,
    iptables: str | None,
    workers: str | None,
    summary: bool,
    log_level: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND in a network namespace of its own, held to a policy.

    COMMAND sees one interface, eth0, with addresses of its own; what it sends goes out through this host by NAT, in
    the lanes of the policy. Services on this host's 127.0.0.1 are out of its reach. When it ends, whatever it left
    running in the background is ended too, and nothing stays behind on the host.

    Needs root, to make namespaces and rules. COMMAND runs as the user who called sudo. A COMMAND that runs as root
    could change its own limits: they are there to keep order, not to keep prisoners.
    """
    with failing_clearly(RUN_FAILED):
        from traffic_policy.policy_file import load_sidecar_policy

        load_sidecar_policy(policy_file, total=total)
        identity = _identity(user)
        _require_root(command)
        _require_command(command[0])

        from podlane.netns.tools import require_tool
        from podlane.run.supervise import RunPlan
        from podlane.run.supervise import run as supervise

        for tool in ("ip", "iptables-restore"):
            require_tool(tool)
        options = [f"--policy={Path(policy_file).absolute()}", f"--log-level={log_level}"]
        given = {"total": total, "datapath": datapath, "iptables": iptables, "workers": workers}
        options += [f"--{option}={value}" for option, value in given.items() if value is not None]
        if variable("max_connections") not in os.environ:
            options.append(f"--max-connections={_connections_that_fit()}")
        sys.exit(supervise(RunPlan(command, name, options, identity, ipv6, summary), dict(os.environ)))


def _connections_that_fit() -> int:
    """The number of connections that the proxy can relay under this machine's hard limit of open files.

    The proxy would reduce its default of 10,000 itself, but with a warning, which is not useful for a single command.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fitting = _MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else (hard - _SPARE_DESCRIPTORS) // 2
    return max(1, min(_MOST_CONNECTIONS, fitting))


def _require_root(command: tuple[str, ...]) -> None:
    if os.geteuid():
        stop(
            "Making a network namespace and its rules needs root. "
            f"Use sudo: sudo podlane run ... -- {command[0]} ...; COMMAND itself still runs as you.",
            RUN_FAILED,
        )


def _require_command(program: str) -> None:
    """Exit if COMMAND cannot be started, before anything is created."""
    if shutil.which(program):
        return
    if "/" in program and Path(program).exists():
        stop(f"{program} is not an executable program. Check its permissions (chmod +x).", NOT_EXECUTABLE)
    stop(f"{program}: no such command. Check its name, or PATH (sudo has its own).", NOT_FOUND)


def _identity(user: str | None) -> UserIdentity | None:
    """The user and groups that COMMAND runs as; None for the current ones."""
    from podlane.netns.spawn import UserIdentity

    if user is not None:
        try:
            return UserIdentity.from_passwd(pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user))
        except KeyError:
            raise click.BadParameter(f"There is no user {user!r} on this machine.", param_hint="--user") from None
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() or not caller.isdecimal() or caller == "0":
        return None
    try:
        return UserIdentity.from_passwd(pwd.getpwuid(int(caller)))
    except KeyError:
        gid = int(os.environ.get("SUDO_GID", caller))
        return UserIdentity(os.environ.get("SUDO_USER", caller), int(caller), gid, (gid,), "/")
