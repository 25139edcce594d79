"""``podlane login``: remember a control plane and a token for it."""

from __future__ import annotations

import sys

import click

from podlane.fleet.contexts import DEFAULT


@click.command(
    epilog="""\b
Examples:
  podlane login http://127.0.0.1:15180
  podlane login https://podlane.example.com:15180 --tenant shop --context shop < token

The token is read from standard input, never from the command line, which others can see.
"""
)
@click.argument("url")
@click.option(
    "--tenant", metavar="NAME", help="What verbs are about.  [default: the token's own; default for platform]"
)
@click.option("--context", default=DEFAULT, metavar="NAME", help="Under which name to keep it.  [default: default]")
@click.option("--ca", metavar="FILE", default="", help="The CA of its certificate (PEM).  [default: the system's]")
def login(url: str, tenant: str | None, context: str, ca: str) -> None:
    """Remember the control plane at URL, and a token for it."""
    from dataclasses import replace
    from pathlib import Path

    from podlane.console import failing_clearly, say
    from podlane.fleet.client import FleetClient
    from podlane.fleet.contexts import FleetContext, load_contexts, save_contexts
    from traffic_policy.errors import ConfigError

    with failing_clearly():
        token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
        token = token.strip()
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigError("This is no token. Give it on standard input, as in: podlane login URL < token")
        found = FleetContext(url, token, tenant or "", str(Path(ca).absolute()) if ca else "")
        caller = FleetClient(found).ask("GET", "whoami")
        home = caller["tenant"] or "platform"
        found = replace(found, tenant=tenant or ("default" if home == "platform" else home))
        role = caller["roles"].get(home, "nobody")
        contexts = load_contexts()
        contexts.contexts[context] = found
        contexts.current = context
        save_contexts(contexts)
        say(f"logged in to {url} as {role} of {home}; verbs are about the tenant {found.tenant}")
