"""``podlane``: the command line. Verbs are imported on use, so that each starts quickly."""

from __future__ import annotations

import gc
import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_PLUGINS: Final = "PYDANTIC_DISABLE_PLUGINS"


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb's line in ``podlane --help``, and the module that has a function of its name: by default
    ``podlane.NAME``."""

    name: str
    help: str
    module: str = ""

    def load(self) -> click.Command:
        name = self.name.replace("-", "_")
        # Modules define what stays: to look for garbage meanwhile takes a tenth of a verb's start. For plugins pydantic
        # would read the metadata of each installed package; what a verb starts keeps its own view of them.
        gc.disable()
        without_plugins = _PLUGINS not in os.environ
        if without_plugins:
            os.environ[_PLUGINS] = "__all__"
        try:
            command = getattr(importlib.import_module(self.module or f"podlane.{name}"), name)
        finally:
            gc.enable()
            if without_plugins:
                del os.environ[_PLUGINS]
        gc.freeze()
        assert isinstance(command, click.Command)
        return command


VERBS: Final = (
    Verb("run", "Run a command in a namespace of its own, held to a policy.", "podlane.run.command"),
    Verb("sidecar", "Hold this network namespace's traffic to a policy until stopped."),
    Verb("agent", "Hold the workloads of this node to their policies, without a sidecar."),
    Verb("injector", "Answer the API server: put the sidecar into Pods, refuse wrong annotations."),
    Verb("operator", "Say in the status of a cluster's policies what became of them."),
    Verb("control-plane", "Keep the policies of a fleet, by REST, with every change recorded."),
    Verb("login", "Remember a control plane and a token for it.", "podlane.fleet.login"),
    Verb("ui", "Open the pages of a control plane in a browser.", "podlane.fleet.ui"),
    Verb("contexts", "List the control planes that you have logged in to, and choose one.", "podlane.fleet.login"),
    Verb("whoami", "Say as whom you are logged in to a control plane.", "podlane.fleet.whoami"),
    Verb("tenants", "List, create, rename and close a control plane's tenants.", "podlane.fleet.tenants"),
    Verb("tokens", "List, issue and revoke a tenant's API tokens.", "podlane.fleet.tokens"),
    Verb("grants", "Say which groups of the identity provider have which role.", "podlane.fleet.grants"),
    Verb("policy", "Look at a control plane's policies, and change them.", "podlane.fleet.policy"),
    Verb("rollout", "Put a policy in force in steps, and take it back.", "podlane.fleet.rollout"),
    Verb("budgets", "Say how many bytes may go through lanes, and see how many have.", "podlane.fleet.budgets"),
    Verb("alerts", "Say what is an alert, see what fires, and who is told.", "podlane.fleet.alerts"),
    Verb("agents", "See a control plane's agents, and revoke them.", "podlane.fleet.agents"),
    Verb("workloads", "Ask a node's agent what its workloads are held to.", "podlane.fleet.workloads"),
    Verb("clusters", "See and change the clusters whose agents belong to a tenant.", "podlane.fleet.clusters"),
    Verb("join-token", "Issue a token with which an agent joins a control plane.", "podlane.fleet.clusters"),
    Verb("audit", "Read who changed what in a control plane, and what was refused.", "podlane.fleet.audit"),
    Verb("tc", "Show, change and undo traffic control of an interface, without a proxy.", "podlane.tc.command"),
    Verb("top", "Watch what each class does, live: of a running sidecar, or of any interface.", "podlane.top.command"),
    Verb("demo", "Watch real programs being held to their lanes; draws a plot.", "podlane.demo.command"),
    Verb("fleet-demo", "Watch policies reach five nodes, and be taken back.", "podlane.fleet_demo.command"),
    Verb("explain", "Say in plain words what a policy means, and show the rules it becomes."),
    Verb(
        "mesh",
        "Let a service mesh's own proxy set the marks by name, instead of a second proxy.",
        "podlane.mesh.command",
    ),
    Verb("classify", "Say what a policy would do to the traffic in a capture file.", "podlane.classify.command"),
    Verb("inject", "Put the sidecar into the Pods of a manifest."),
    Verb("uninject", "Take it out again."),
    Verb("crds", "Print the Kubernetes definitions of policies, for kubectl apply."),
    Verb("export", "Turn annotations and ConfigMaps of Pods into TrafficPolicies.", "podlane.export.command"),
    Verb("ready", "Say whether this network namespace's sidecar is ready."),
    Verb("check", "Say what this kernel and these privileges allow.", "podlane.check.command"),
    Verb("completion", "Print what a shell needs to complete verbs and options."),
    Verb("version", "Print the version."),
)
"""In the order of the help text."""


class Verbs(click.Group):
    """The group of all verbs; help texts come from the table, so listing them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return next((verb.load() for verb in VERBS if verb.name == cmd_name), None)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs by the table, and options: click would import each verb for its help."""
        from click.shell_completion import CompletionItem

        found = [CompletionItem(verb.name, help=verb.help) for verb in VERBS if verb.name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            ctx.fail(f"There is no verb {name!r}. The verbs are {', '.join(self.list_commands(ctx))}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(verb.name, verb.help) for verb in VERBS])


@click.command(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="VERB ...",
    epilog="""\b
Examples:
  podlane check
  podlane explain --policy policy.yaml
  sudo podlane run --policy policy.yaml --total 50Mbit -- curl -O https://example.com/file
  sudo podlane tc apply eth0 --file policy.yaml

`podlane VERB --help` says more about each. Exit codes: 0 done, 1 failed, 2 the command line or the
policy cannot be used; `run` has COMMAND's own, or 125, 126, 127 as env(1) does.
""",
)
@click.version_option(package_name="podlane", message="podlane %(version)s")
def main() -> None:
    """Podlane gives programs their own traffic lanes.

    A policy names classes of traffic by TLS server name, HTTP host, port or address, each with a guaranteed rate, a
    ceiling and a priority. Podlane holds unmodified programs to it.
    """
    if os.environ.get("NO_COLOR"):
        # https://no-color.org: rich respects it, click does not. None, the default, means colours on a terminal.
        click.get_current_context().color = False


if __name__ == "__main__":
    main()
