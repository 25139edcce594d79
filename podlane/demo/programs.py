"""Finding and starting the system's programs that the demo is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from podlane.errors import ToolMissingError
from podlane.netns.tools import find_tool

_PACKAGES: Final = {
    "nginx": "nginx-light",
    "curl": "curl",
    "openssl": "openssl",
    "bash": "bash",
    "dd": "coreutils",
    "cat": "coreutils",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
"""What the demo runs, and the Debian and Ubuntu packages that have it."""

_LAST_LINES: Final = 8


def require_programs() -> None:
    """Raise :class:`ToolMissingError` naming everything that is missing, and the packages to install."""
    missing = [name for name in _PACKAGES if find_tool(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(_PACKAGES[name] for name in missing))
        verb = "is" if len(missing) == 1 else "are"
        raise ToolMissingError(
            f"{', '.join(missing)} {verb} not installed; the demo uses real programs. "
            f"Install: apt-get install {packages}"
        )


def tool(name: str) -> str:
    """The path of a program; raises :class:`ToolMissingError`."""
    path = find_tool(name)
    if path is None:
        raise ToolMissingError(f"{name} is not installed. Install: apt-get install {_PACKAGES.get(name, name)}")
    return path


def guarded(argv: Sequence[str]) -> list[str]:
    """``argv`` as a command that the kernel kills when the demo dies, however it dies (PR_SET_PDEATHSIG, prctl(2))."""
    return [tool("setpriv"), "--pdeathsig", "KILL", *argv]


def last_words(log: Path) -> str:
    """The end of a log, ready to follow an error's text; nothing when there is none."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-_LAST_LINES:])
