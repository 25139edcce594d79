"""Runs system commands (``ip``, ``iptables-restore`` ...) and turns their failures into clear errors."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

from podlane.errors import LabError, ToolMissingError

PACKAGES: Final = {
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "iptables-save": "iptables",
    "iptables-restore": "iptables",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "nginx": "nginx-light",
    "dd": "coreutils",
    "cat": "coreutils",
}
"""Debian and Ubuntu packages that have the commands we call, where these have another name."""

_SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where administrators' commands live: an ordinary user's PATH often lacks the sbin folders."""
_PATIENCE: Final = 30.0
"""Seconds; the slowest of these commands waits for the xtables lock, which others hold for milliseconds."""


def find_tool(name: str) -> str | None:
    """The path of a command, searched in PATH and in the system directories."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)


def require_tool(name: str) -> str:
    """The path of a command; raises :class:`ToolMissingError` naming the package to install."""
    if path := find_tool(name):
        return path
    package = PACKAGES.get(name, name)
    raise ToolMissingError(f"The command {name} is not installed. Install it: apt-get install {package}")


def run_tool(arguments: Sequence[str], *, stdin: str | None = None) -> str:
    """Run a command and give its standard output; raises :class:`LabError` with what the command said."""
    command = [require_tool(arguments[0]), *arguments[1:]]
    try:
        done = finished(command, timeout=_PATIENCE, stdin=stdin, env={**os.environ, "LC_ALL": "C"})
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(arguments)} did not end within {_PATIENCE:g} s. Try it by hand.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().replace("\n", "; ") or f"exit code {done.returncode}"
        raise LabError(f"{' '.join(arguments)} failed: {said.rstrip('.')}.{_remedy(said)}")
    return done.stdout


def finished(
    command: Sequence[str], *, timeout: float, stdin: str | None, env: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and collect what it writes; raises TimeoutExpired, with bytes, after so many seconds."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, check=False, **given)


def ip(*arguments: str, namespace: str | None = None) -> str:
    """Run ``ip``, inside a named network namespace when one is given; raises :class:`LabError`."""
    return run_tool(["ip", *(["-n", namespace] if namespace else []), *arguments])


def _remedy(said: str) -> str:
    if "Operation not permitted" in said or "Permission denied" in said:
        return " This needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN: use sudo."
    if "Operation not supported" in said or "Unknown device type" in said:
        return " The kernel lacks this: `podlane check` says what is missing."
    return ""
