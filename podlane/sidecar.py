"""``podlane sidecar``: shapes and proxies the network namespace it is started in."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from functools import partial
from typing import Any, NoReturn

import click

from podlane.options import choice, datapath_option, exclusion_options, iptables_option, mesh_option, workers_option
from traffic_policy.settings import (
    ADMIN_ADDRESS,
    ADMIN_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
    AccessLogMode,
    LogFormat,
    LogLevel,
    OnFailure,
    variable,
)


class _Sidecar(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = list(args)  # as given, for the proxy
        return super().parse_args(ctx, args)


@click.command(
    cls=_Sidecar,
    epilog="""\b
Examples:
  podlane sidecar --policy policy.yaml
  podlane sidecar --annotations /etc/podlane/pod/annotations
  podlane sidecar --policy policy.yaml --interface eth0 --log-format json --admin-address 0.0.0.0
  podlane sidecar --cleanup

Every option can be given as an environment variable, as in PODLANE_LOG_LEVEL=debug.
What annotations say wins over both.
A changed policy is put in force at once, or at SIGHUP; SIGTERM drains, removes everything and exits with status 0.
""",
)
@click.option("--policy", metavar="FILE", help="Policy file (YAML or JSON).")
@click.option("--annotations", metavar="FILE", help="A Pod's annotations (downward API file), instead of --policy.")
@click.option(
    "--shared-policy", metavar="FOLDER", help="Has the policy that the Pod's annotations name: NAME/policy.yaml."
)
@click.option(
    "--watch/--no-watch",
    default=None,
    help="Put a change of these files in force at once, or only at SIGHUP.  [default: watch]",
)
@click.option("--total", metavar="RATE", help="Replaces the policy's total, as in 50Mbit.")
@click.option(
    "--interface",
    metavar="NAME",
    envvar=variable("interface"),  # for --cleanup, which reads no other settings
    help="Interface to shape.  [default: the default route's]",
)
@click.option("--replace", is_flag=True, default=None, help="Replace a root qdisc that somebody else installed.")
@iptables_option("Install the rules by iptables-restore or by python-iptables.  [default: auto, what is there]")
@datapath_option("Relay what names decide, read first packets and step aside, or do so by eBPF.  [default: relay]")
@mesh_option(
    "The service mesh in this Pod, behind whose proxy to sit.  [default: auto, told by the rules here]", auto=True
)
@click.option(
    "--on-failure",
    type=choice(OnFailure),
    help="While the proxy is gone, connections that it would relay go direct, or are refused.  [default: open]",
)
@click.option(
    "--outbound-port", metavar="PORT", type=int, help=f"Where captured connections arrive.  [default: {OUTBOUND_PORT}]"
)
@click.option(
    "--inbound-port", metavar="PORT", type=int, help=f"Where those of clients arrive.  [default: {INBOUND_PORT}]"
)
@click.option("--silent-ports", metavar="PORTS", help="Ports captured only by matches that name them, as in 25,3306.")
@exclusion_options("Leave alone")
@click.option("--detection-timeout", metavar="TIME", help="How long to wait for a connection's first bytes.")
@click.option("--connect-timeout", metavar="TIME", help="How long an upstream may take to accept.")
@click.option("--idle-timeout", metavar="TIME", help="How long a connection may carry nothing.")
@click.option("--max-connections", metavar="N", type=int, help="Connections relayed at once.")
@workers_option()
@click.option("--grace", metavar="TIME", help="How long connections may go on after SIGTERM.")
@click.option("--admin-address", metavar="ADDRESS", help=f"Where the admin server listens.  [default: {ADMIN_ADDRESS}]")
@click.option("--admin-port", metavar="PORT", type=int, help=f"Its port; 0 for none.  [default: {ADMIN_PORT}]")
@click.option("--access-log", type=choice(AccessLogMode), help="A line of JSON per ended connection.")
@click.option("--access-log-file", metavar="FILE", help="Where it goes.  [default: standard output]")
@click.option("--log-format", type=choice(LogFormat), help="How log lines are written.")
@click.option("--log-level", type=choice(LogLevel), help="From which severity on.")
@click.option("--cleanup", is_flag=True, help="Remove what an earlier sidecar left here, and exit.")
@click.option("--alone", is_flag=True, hidden=True, help="Without a supervisor: whoever starts it sees to its end.")
@click.option("--supervisor-fd", type=int, hidden=True, help="The supervisor's socket.")
@click.option("--ready-fd", type=int, hidden=True, help="Write 'ready' to this file descriptor once all is in force.")
@click.option("--summary-fd", type=int, hidden=True, help="Write the last /classes document to this descriptor.")
@click.pass_context
def sidecar(
    context: click.Context,
    /,
    cleanup: bool,
    alone: bool,
    supervisor_fd: int | None,
    ready_fd: int | None,
    summary_fd: int | None,
    **options: Any,
) -> None:
    """Hold this network namespace's traffic to a policy until stopped.

    This is what runs in a Pod's sidecar container. It needs CAP_NET_ADMIN; `podlane check` says what else.
    """
    from podlane.console import failing_clearly, ignore_late_signals

    if not (cleanup or alone or supervisor_fd is not None):
        _supervise(context.obj)
    if not cleanup:
        _begin()
    with failing_clearly():
        from daemon import log
        from datapath.cleanup import cleanup as remove_leftovers
        from sidecar.app.main import run
        from sidecar.config.settings import load_settings
        from sidecar.supervisor.client import SupervisorClient

        if cleanup:
            remove_leftovers(options["interface"])
            return
        settings = load_settings(options)
        log.configure(settings.log_format, settings.log_level)
        try:
            run(
                settings,
                supervisor=None if supervisor_fd is None else SupervisorClient.from_descriptor(supervisor_fd),
                on_ready=partial(_write, ready_fd, "ready\n"),
                on_summary=lambda document: _write(summary_fd, json.dumps(document) + "\n"),
            )
        finally:
            ignore_late_signals()


def _supervise(arguments: list[str]) -> NoReturn:
    """Execute the supervisor (:mod:`sidecar.supervisor`), which starts this verb again, as the proxy.

    exec(2) frees everything imported here, and keeps the pid, so signals to this process reach the supervisor.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Signals that arrive meanwhile stay pending for the supervisor's handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    python = [sys.executable, "-P", "-m"]
    os.execv(sys.executable, [*python, "sidecar.supervisor", *python, "podlane", "sidecar", *arguments])


def _begin() -> None:
    """Prepare signals and the garbage collector for the import of :mod:`sidecar.app.sidecar`, which takes most of a
    start.

    SIGHUP would end the process, but the policy that it asks to reload is still to be read.
    """
    from podlane.console import end_at_once_on_sigterm

    end_at_once_on_sigterm()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # else it reads the metadata of each installed package
    gc.disable()  # modules are permanent; collecting repeatedly would take a tenth of the import time


def _write(descriptor: int | None, text: str) -> None:
    if descriptor is None:
        return
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
