"""What ``podlane-cni`` asks the agent, and what it is answered. Pure.

It sends variables of its environment (https://www.cni.dev/docs/spec/#parameters), each NAME=VALUE and a zero byte. The
answer is ``ok``, or the error that the container runtime is to be told, as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

OK: Final = b"ok\n"
BAD_ENVIRONMENT: Final = 4
TRY_LATER: Final = 11
"""Codes of the specification."""
REFUSED: Final = 100
"""From 100 on they are a plugin's own: the Pod's limits cannot be honoured."""


class CniError(Exception):
    """The Pod's network is not as it should be; ``code`` is for the container runtime."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    def answer(self, version: str) -> bytes:
        """The error as JSON, for a configuration of this version of CNI."""
        return json.dumps({"cniVersion": version, "code": self.code, "msg": f"podlane: {self}"}).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class CniCall:
    """A call of the plugin.

    ``namespace`` and ``pod`` are names, empty for what is no Pod. ``uid`` is the kubelet's UID of the Pod, which old
    container runtimes do not tell.
    """

    version: str
    command: str
    network_namespace: Path
    namespace: str
    pod: str
    uid: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises :class:`CniError`."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise CniError(BAD_ENVIRONMENT, "the plugin's variables are not UTF-8 text") from None
        said = _pairs(text, "\0")
        pod = _pairs(said.get("CNI_ARGS", ""), ";")
        place = said.get("CNI_NETNS", "")
        if not text.endswith("\0") or not place.startswith("/"):
            raise CniError(BAD_ENVIRONMENT, "CNI_NETNS names no network namespace")
        return cls(
            said.get("cniVersion", ""),
            said.get("CNI_COMMAND", ""),
            Path(place),
            pod.get("K8S_POD_NAMESPACE", ""),
            pod.get("K8S_POD_NAME", ""),
            pod.get("K8S_POD_UID", ""),
        )


def _pairs(text: str, separator: str) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in text.split(separator))}
