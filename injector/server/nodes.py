"""Nodes whose kubelet is older than the sidecar needs, looked for now and then.

The API server's version says little about nodes: kubelets may be three minor versions older
(https://kubernetes.io/releases/version-skew-policy/). One without native sidecars rejects the Pod
(InitContainerRestartPolicyForbidden), or takes the sidecar for an init container and waits for its end. Where a Pod
will run is not known when it is created, and neither is which node an autoscaler would add for it. So nothing is
refused: who creates a Pod is warned, and the log and a metric tell the cluster's administrators.
"""

from __future__ import annotations

import re
from typing import Final

import trio

from daemon.kubernetes.api import ApiServer, nodes
from daemon.kubernetes.errors import ApiError
from daemon.log import Logger
from injector.server.metrics import InjectorMetrics

OLDEST_KUBERNETES: Final = (1, 29)
"""The first version with native sidecars enabled by default (KEP-753)."""
_INTERVAL: Final = 600.0
"""Seconds between two looks: nodes are upgraded in hours."""
_RETRY: Final = 60.0
"""Seconds until the next look after one that failed."""
_LINUX: Final = "kubernetes.io/os!=windows"
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")
_NAMED: Final = 3
"""Nodes that a warning names, and characters of each name."""
_LONGEST_NAME: Final = 30

log = Logger()


class Nodes:
    """Looks at the nodes of a cluster; ``api`` is None without an API server, and nothing is known then."""

    def __init__(self, api: ApiServer | None, metrics: InjectorMetrics) -> None:
        self._api = api
        self._metrics = metrics
        self._old: tuple[str, ...] = ()
        self._all = 0
        self._trouble = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """For who creates a Pod with the sidecar."""
        if not self._old:
            return ()
        named = ", ".join(name[:_LONGEST_NAME] for name in self._old[:_NAMED])
        warning = (
            f"{len(self._old)} of {self._all} nodes have kubelets before {_text(OLDEST_KUBERNETES)}, on which no Pod "
            f"with a sidecar starts: {named}{', ...' * (len(self._old) > _NAMED)}. Upgrade them, or keep the Pod away."
        )
        return (warning,)

    async def follow(self) -> None:
        """Look at once, then again and again."""
        while self._api is not None:
            await trio.sleep(_INTERVAL if await self.look(self._api) else _RETRY)

    async def look(self, api: ApiServer) -> bool:
        """Look once; whether that worked. What was seen before stays until it does."""
        seen = 0
        old = []
        try:
            async for name, version in api.table(nodes(), _LINUX, "Name", "Version"):
                seen += 1
                found = _VERSION.match(version)
                if found and tuple(map(int, found.groups())) < OLDEST_KUBERNETES:
                    old.append(name)
        except ApiError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("whether kubelets are too old is not known", error=self._trouble)
            return False
        self._trouble = ""
        if tuple(old) != self._old:
            log.warning(
                "kubelets without native sidecars" if old else "no kubelet is too old any more",
                nodes=old[:20], count=len(old), of=seen, needed=_text(OLDEST_KUBERNETES),
            )  # fmt: skip
        self._old, self._all = tuple(old), seen
        self._metrics.old_kubelets = len(old)
        return True


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
