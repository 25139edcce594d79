"""``podlane agent``: lanes for the workloads of a node, without a sidecar."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import click

from podlane.options import choice
from traffic_policy.settings import ADMIN_ADDRESS, AGENT_PORT, AgentDatapath, Enforce, LogFormat, LogLevel, OnFailure


@click.command(
    epilog="""\b
Examples:
  podlane agent --node $(hostname) --kubeconfig /etc/kubernetes/agent.conf
  podlane agent --workloads workloads.yaml
  podlane agent --workloads workloads.yaml --control-plane cp.example.com:15181 --join-token @/etc/podlane/join-token
  podlane agent --cleanup

Every option can be given as an environment variable, as in PODLANE_AGENT_LOG_LEVEL=debug.
A changed file is put in force at once. SIGTERM ends the agent and leaves the lanes in force: the next one adopts them.
"""
)
@click.option("--workloads", metavar="FILE", help="Network namespaces of this host, with a policy each (YAML or JSON).")
@click.option("--node", metavar="NAME", help="The Pods of this node of a Kubernetes cluster.")
@click.option(
    "--mode",
    type=click.Choice(["agent", "none"]),
    help="Pods without the label podlane.io/mode, on them or their namespace: hold them to their limits, or not.  "
    "[default: none]",
)
@click.option(
    "--datapath",
    type=choice(AgentDatapath),
    help="How first bytes are seen where a workload does not say it: by programs in the kernel (ebpf), shown to the "
    "agent (step-aside), or by programs where nothing is lost by it.  [default: auto]",
)
@click.option(
    "--enforce",
    type=choice(Enforce),
    help="Where lanes are: at the Pod's own interface (pod), or at the node's end of its link (host), which no program "
    "of the Pod can get past; where that cannot be, at the Pod's.  [default: pod]",
)
@click.option("--kubeconfig", metavar="FILE", help="How to reach the API server.  [default: as a Pod does]")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.  [default: its current one]")
@click.option(
    "--state",
    metavar="FOLDER",
    help="Where it keeps what the next agent has to know.  [default: /run/podlane/agent]",
)
@click.option(
    "--cni-conf-dir",
    metavar="FOLDER",
    help="Chain the plugin podlane-cni into the node's network configuration in this folder, as /etc/cni/net.d: lanes "
    "are in force before a Pod's first packet.",
)
@click.option("--cni-bin-dir", metavar="FOLDER", help="Where the node's CNI plugins are.  [default: /opt/cni/bin]")
@click.option(
    "--cni-on-failure",
    type=choice(OnFailure),
    help="Pods whose lanes are not in force in time, or without an agent: begin without them (open), or wait "
    "(closed).  [default: open]",
)
@click.option(
    "--cni-exempt",
    metavar="NAMESPACES",
    help="Pods of these never wait: the agent's own must be among them. With commas, as kube-system,podlane-system.",
)
@click.option(
    "--daemon-set",
    metavar="NAMESPACE/NAME",
    help="The DaemonSet of this agent: when it is deleted, the plugin is taken out of the network configuration.",
)
@click.option(
    "--control-plane",
    metavar="HOST:PORT",
    help="The control plane whose policies Pods and entries without a policy of their own have. Several with commas.",
)
@click.option(
    "--join-token",
    metavar="TEXT",
    help="What `podlane join-token` has printed, or @FILE with it: by this the agent gets its certificate, once.",
)
@click.option(
    "--service-account-token",
    metavar="FILE",
    help="A token of the agent's ServiceAccount for the audience podlane, instead of a join token.",
)
@click.option("--control-plane-ca", metavar="FILE", help="The control plane's root, in PEM, if no join token names it.")
@click.option(
    "--cluster",
    metavar="NAME",
    help="The control plane's name of this cluster: CLUSTER or TENANT/CLUSTER.  [default: that of the join token]",
)
@click.option(
    "--node-labels",
    metavar="LABELS",
    help="Labels of this node, besides those in the API server, by which the control plane selects policies: "
    "zone=a,rack=7.",
)
@click.option("--name", metavar="NAME", help="The control plane's name of this node.  [default: --node, or the host's]")
@click.option(
    "--data",
    metavar="FOLDER",
    help="Where its certificate is kept, and what the control plane said last, also over a reboot.  "
    "[default: /var/lib/podlane/agent]",
)
@click.option("--admin-address", metavar="ADDRESS", help=f"Where the admin server listens.  [default: {ADMIN_ADDRESS}]")
@click.option("--admin-port", metavar="PORT", type=int, help=f"Its port; 0 for none.  [default: {AGENT_PORT}]")
@click.option("--log-format", type=choice(LogFormat), help="How log lines are written.")
@click.option("--log-level", type=choice(LogLevel), help="From which severity on.")
@click.option("--cleanup", is_flag=True, help="Remove what agents have left on this node, and exit.")
@click.option(
    "--simulate",
    metavar="N",
    type=click.IntRange(1, 100_000),
    help="Be N agents without lanes, for load on a control plane. --join-token @FILE has a token for each, one a line.",
)
@click.option("--ready-fd", type=int, hidden=True, help="Write the admin port here once the workloads are known.")
def agent(cleanup: bool, simulate: int | None, ready_fd: int | None, **options: Any) -> None:
    """Hold the workloads of this node to their policies, each in its own network namespace.

    Nothing runs in the workloads. It needs root: CAP_SYS_ADMIN and CAP_NET_ADMIN.
    """
    from podlane.console import end_at_once_on_sigterm, failing_clearly, ignore_late_signals, say

    end_at_once_on_sigterm()
    with failing_clearly():
        import trio

        from daemon import log
        from node_agent import main
        from node_agent.settings import load_settings

        settings = load_settings(options, needs_source=not cleanup and simulate is None)
        log.configure(settings.log_format, settings.log_level)
        if simulate is not None:
            from node_agent.simulated import main as simulated

            simulated.simulate(settings, simulate, click.echo)
            return
        if cleanup:
            for line in main.cleanup(settings):
                say(line)
            return
        try:
            trio.run(partial(main.serve, settings, on_ready=partial(_tell, ready_fd)))
        finally:
            ignore_late_signals()


def _tell(descriptor: int | None, port: int | None) -> None:
    if descriptor is None:
        return
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{port}\n")
