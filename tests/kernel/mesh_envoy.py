"""A real Envoy that runs in a namespace as Istio runs its sidecar; what it does is told by :mod:`istio_proxy`."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from istio_proxy import ProxyConfiguration, Service
from istio_rules import INBOUND, ISTIO_ID, OUTBOUND, Mode
from waiting import until_listening

from benchmarks.candidates.envoy import envoy_binary
from podlane.netns import Host


@dataclass
class MeshEnvoy:
    """Envoy in a Pod, as the user and group that Istio gives it. ``log`` is its standard error."""

    host: Host
    folder: Path
    mode: Mode = Mode.REDIRECT
    services: tuple[Service, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it and wait until both listeners are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        user = ISTIO_ID if self.mode is Mode.REDIRECT else 0
        identity = (
            [] if self.mode is Mode.AMBIENT else ["--reuid", str(user), "--regid", str(ISTIO_ID), "--clear-groups"]
        )
        configuration = json.dumps(ProxyConfiguration(self.mode, self.services).document())
        argv = [
            *("setpriv", *identity, "--", envoy_binary() or "envoy"),
            *("--config-yaml", configuration, "--concurrency", "1", "-l", "warning", "--disable-hot-restart"),
        ]
        with (self.folder / "envoy.log").open("ab") as log:
            self.process = self.host.popen(argv, stdout=log, stderr=log)
        for port in (OUTBOUND, INBOUND):
            until_listening(self.host, port)

    def restart(self) -> None:
        """Kill it, as the kubelet would see it crash, and start it again."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.start()
