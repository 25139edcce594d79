"""``podlane login``: remember a control plane and a token for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from podlane.fleet.contexts import DEFAULT
from podlane.fleet.output import output_option

if TYPE_CHECKING:
    from podlane.fleet.contexts import FleetContext


@click.command(
    epilog="""\b
Examples:
  podlane login http://127.0.0.1:15180
  podlane login https://podlane.example.com:15180 --tenant shop --context shop < token
  podlane login https://podlane.example.com:15180 --oidc

The token is read from standard input, never from the command line, which others can see.
"""
)
@click.argument("url")
@click.option("--oidc", is_flag=True, help="Log in with a browser, by the control plane's identity provider.")
@click.option(
    "--tenant", metavar="NAME", help="What verbs are about.  [default: where you have a role; default for platform]"
)
@click.option("--context", default=DEFAULT, metavar="NAME", help="Under which name to keep it.  [default: default]")
@click.option("--ca", metavar="FILE", default="", help="The CA of its certificate (PEM).  [default: the system's]")
def login(url: str, oidc: bool, tenant: str | None, context: str, ca: str) -> None:
    """Remember the control plane at URL, and a token for it."""
    from dataclasses import replace
    from pathlib import Path

    from podlane.console import failing_clearly, say
    from podlane.fleet.client import FleetClient
    from podlane.fleet.contexts import FleetContext, load_contexts, save_contexts

    with failing_clearly():
        found = FleetContext(url, "", tenant or "", str(Path(ca).absolute()) if ca else "")
        found = _by_browser(found) if oidc else replace(found, token=_given_token())
        caller = FleetClient(found).ask("GET", "whoami")
        roles = caller["roles"]
        home = next((each for each in sorted(roles) if each != "platform"), "default")
        found = replace(found, tenant=tenant or home)
        contexts = load_contexts()
        contexts.contexts[context] = found
        contexts.current = context
        save_contexts(contexts)
        told = ", ".join(f"{role} of {each}" for each, role in roles.items()) or "nobody with a role"
        say(f"logged in to {url} as {told}; verbs are about the tenant {found.tenant}")


@click.group(
    epilog="""\b
Examples:
  podlane contexts list
  podlane contexts use shop
  podlane contexts use shop --tenant shop
  podlane contexts remove old
"""
)
def contexts() -> None:
    """List the control planes that you have logged in to, and choose the one that verbs are about."""


@contexts.command("list")
@output_option
def list_contexts(output: str) -> None:
    """List contexts; the current one has a star. No token is shown."""
    from podlane.console import failing_clearly
    from podlane.fleet.contexts import load_contexts
    from podlane.fleet.output import show

    with failing_clearly():
        known = load_contexts()
        found = [
            {"name": name, "current": name == known.current, "url": each.url, "tenant": each.tenant, "ca": each.ca}
            for name, each in sorted(known.contexts.items())
        ]
        show(found, output, _context_rows)


@contexts.command("use")
@click.argument("name")
@click.option("--tenant", metavar="NAME", help="What verbs are about in it from now on.")
def use_context(name: str, tenant: str | None) -> None:
    """Make NAME the current context."""
    from dataclasses import replace

    from podlane.console import failing_clearly, say
    from podlane.fleet.contexts import load_contexts, save_contexts

    with failing_clearly():
        known = load_contexts()
        found = known.find(name)
        known.contexts[name] = replace(found, tenant=tenant or found.tenant)
        known.current = name
        save_contexts(known)
        say(f"verbs are about {known.contexts[name].tenant} at {found.url}")


@contexts.command("remove")
@click.argument("name")
def remove_context(name: str) -> None:
    """Forget the context NAME, and its token, which stays valid until it is revoked."""
    from podlane.console import failing_clearly, say
    from podlane.fleet.contexts import load_contexts, save_contexts

    with failing_clearly():
        known = load_contexts()
        known.find(name)
        del known.contexts[name]
        save_contexts(known)
        say(f"there is no context {name} any more")


def _context_rows(found: list[Any]) -> list[list[str]]:
    rows = [["CURRENT", "NAME", "URL", "TENANT"]]
    return rows + [["*" if each["current"] else "", each["name"], each["url"], each["tenant"]] for each in found]


def _given_token() -> str:
    from traffic_policy.errors import ConfigError

    token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError("This is no token. Give it on standard input, as in: podlane login URL < token")
    return str(token)


def _by_browser(context: FleetContext) -> FleetContext:
    """By the device flow (RFC 8628): any browser will do, also on another machine."""
    import time

    from podlane.console import say
    from podlane.fleet.client import FleetClient, FleetError, renewed

    client = FleetClient(context)
    device = client.ask("POST", "login/device")
    place = device["verification_uri_complete"] or device["verification_uri"]
    say(f"go to {place}")
    say(f"and see that the code there is {device['user_code']}")
    end, interval = time.monotonic() + device["expires_in"], max(1, device["interval"])
    while time.monotonic() < end:
        time.sleep(interval)
        tokens = client.ask("POST", "login/device/token", {"device_code": device["device_code"]})
        if tokens["access_token"]:
            return renewed(context, tokens)
        if tokens["pending"] == "slow_down":
            # RFC 8628, section 3.5.
            interval += 5
    raise FleetError("Nobody has logged in. Begin again.")
