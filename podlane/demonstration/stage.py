"""The demo's stage: a Pod, a node and a server in namespaces, servers, the sidecar, and clients that come and go.

Everything is made in one ``with`` block and gone at its end. What is measured is read straight from the kernel's class
counters on the Pod's interface, not from the sidecar's own statistics: the one who is judged does not keep the score.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from podlane.demonstration.clients import Upload, Uploader
from podlane.demonstration.leftovers import PREFIX, own_folder
from podlane.demonstration.programs import guarded, last_words
from podlane.demonstration.scenario import Client, Lane, Scenario, policy_text
from podlane.demonstration.servers import Servers, make_certificate, start_servers
from podlane.errors import DemoError
from podlane.lab import Lab, PodNodeServer, pod_node_server
from podlane.runner.proxy import sidecar_command
from tc_core.compile import leaf_handle
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.marks import ClassIds
from tc_core.netlink import NetlinkKernel

INTERFACE: Final = "eth0"
_ADMIN_PORT: Final = 15109
_READY_PATIENCE: Final = 60.0
"""Seconds until the sidecar has everything in force; imports and the look at the kernel are the slow parts."""
_STOP_PATIENCE: Final = 15.0
_CHANGE_PATIENCE: Final = 5.0
"""Seconds until changed limits must be in force; the change itself takes milliseconds."""
_FINISH_PATIENCE: Final = 20.0
"""Seconds for what is on its way when the uploads end: under a megabyte each, the slowest lane at 5 Mbit/s or more."""
_POLL_SECONDS: Final = 0.02

SYSCTLS: Final = {
    # Always there and the same everywhere; what a host prefers (bbr paces by itself) would show in the picture.
    "net.ipv4.tcp_congestion_control": "reno",
    # Small socket buffers: an upload that ends is over in a moment, instead of after megabytes at a few Mbit/s.
    "net.ipv4.tcp_wmem": "4096 65536 262144",
    "net.ipv4.tcp_rmem": "4096 131072 262144",
}


@dataclass
class Stage:
    """Everything that runs. Get one from :func:`open_stage`."""

    scenario: Scenario
    folder: Path
    hosts: PodNodeServer
    servers: Servers
    certificate: Path
    sidecar: subprocess.Popen[Any]
    kernel: Kernel
    handles: Mapping[str, Handle]
    uploads: dict[str, Uploader] = field(default_factory=dict)

    def start_lane(self, lane: Lane) -> None:
        """Start the lane's upload."""
        server = self.hosts.server_ipv4
        self.uploads[lane.name] = Uploader(lane, self.hosts.pod, server, self.certificate, self.folder)

    def end_lane(self, name: str) -> None:
        """Let the lane's upload finish."""
        self.uploads[name].end()

    def change_limits(self) -> None:
        """Put the second policy in force, as an operator would: rewrite the file and send SIGHUP. Raises DemoError."""
        _write_policy(self.folder, changed=True)
        self.sidecar.send_signal(signal.SIGHUP)
        wanted = {
            name: (limits.rate.bits_per_second, limits.ceil.bits_per_second)
            for name, limits in self.scenario.after.items()
        }
        deadline = time.monotonic() + _CHANGE_PATIENCE
        while (found := self._limits()) != wanted:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"The changed limits are not in force after {_CHANGE_PATIENCE:g} s: found {found}."
                    f"{last_words(_sidecar_log(self.folder))}"
                )
            time.sleep(_POLL_SECONDS)

    def sent(self) -> dict[str, int]:
        """Bytes that each lane's class has sent so far, from the kernel."""
        counters = self.kernel.counters(INTERFACE)
        return {name: counters[handle].bytes for name, handle in self.handles.items()}

    def protocols(self) -> dict[str, tuple[str, ...]]:
        """What the proxy recognised each lane's connections as; empty for what never went through it."""
        return {c["name"]: tuple(c["connections"]["by_protocol"]) for c in self._classes()}

    def check(self) -> None:
        """Raise :class:`DemoError` when something has ended that should still run."""
        if self.sidecar.poll() is not None:
            raise DemoError(f"The sidecar ended with {self.sidecar.returncode}.{last_words(_sidecar_log(self.folder))}")
        self.servers.check()
        for upload in self.uploads.values():
            upload.check()

    def finish(self) -> list[Upload]:
        """End all uploads and wait until each has arrived; gives what became of them, in the order of the lanes."""
        for upload in self.uploads.values():
            upload.end()
        results = []
        for lane in self.scenario.lanes:
            if lane.name in self.uploads:
                result = self.uploads[lane.name].result(_FINISH_PATIENCE)
                if lane.client is Client.CAT and result.problem is None:
                    result = Upload(lane.name, result.sent, self.servers.raw_upload(_FINISH_PATIENCE))
                results.append(result)
        return results

    def stop_sidecar(self) -> None:
        """Stop it as Kubernetes would; raises :class:`DemoError` when it does not end well."""
        self.sidecar.send_signal(signal.SIGTERM)
        try:
            status = self.sidecar.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoError(
                f"The sidecar did not end within {_STOP_PATIENCE:g} s.{last_words(_sidecar_log(self.folder))}"
            ) from None
        if status:
            raise DemoError(f"The sidecar ended with {status}.{last_words(_sidecar_log(self.folder))}")

    def _limits(self) -> dict[str, tuple[int, int]]:
        return {c["name"]: (c["rate_bits_per_second"], c["ceil_bits_per_second"]) for c in self._classes()}

    def _classes(self) -> list[dict[str, Any]]:
        with self.hosts.pod.namespace.entered():
            connection = http.client.HTTPConnection("127.0.0.1", _ADMIN_PORT, timeout=_CHANGE_PATIENCE)
            try:
                connection.request("GET", "/classes")
                document = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise DemoError(f"The sidecar's admin server does not answer: {error}.") from None
            finally:
                connection.close()
        classes: list[dict[str, Any]] = document["classes"]
        return classes


@contextmanager
def open_stage(scenario: Scenario) -> Iterator[Stage]:
    """Set everything up, ready for the first lane; take everything down at the end of the block, whatever happened.

    Raises :class:`DemoError`, :class:`~podlane.errors.LabError` or :class:`~tc_core.errors.TcError`.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        hosts = pod_node_server(stack.enter_context(Lab(PREFIX)), sysctls=SYSCTLS)
        certificate, key = make_certificate(folder)
        servers = start_servers(hosts.server, folder, hosts.server_ipv4, certificate, key)
        _write_policy(folder, changed=False)
        sidecar = _start_sidecar(hosts, folder)
        with hosts.pod.namespace.entered():
            kernel = stack.enter_context(NetlinkKernel())
        ids = ClassIds.assign(scenario.before)
        handles = {lane.name: leaf_handle(ids[lane.name]) for lane in scenario.lanes}
        stage = Stage(scenario, folder, hosts, servers, certificate, sidecar, kernel, handles)
        stack.callback(_kill_feeders, stage)
        # Runs first: a second Ctrl-C must not stop the clearing up.
        stack.callback(_ignore_signals)
        yield stage


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _kill_feeders(stage: Stage) -> None:
    for upload in stage.uploads.values():
        upload.kill()


def _policy_file(folder: Path) -> Path:
    return folder / "policy.yaml"


def _sidecar_log(folder: Path) -> Path:
    return folder / "sidecar.log"


def _write_policy(folder: Path, *, changed: bool) -> None:
    # Replaced in one step: the sidecar must never read half a file.
    new = folder / "policy.new"
    new.write_text(policy_text(changed=changed), encoding="utf-8")
    new.replace(_policy_file(folder))


def _start_sidecar(hosts: PodNodeServer, folder: Path) -> subprocess.Popen[Any]:
    log = _sidecar_log(folder)
    ready, writing = os.pipe2(os.O_CLOEXEC)
    options = ["--policy", str(_policy_file(folder)), "--interface", INTERFACE, "--grace", "3s"]
    options += ["--admin-port", str(_ADMIN_PORT), "--ready-fd", str(writing), "--log-level", "info"]
    # Settings of the user's own sidecar must not change the demo.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PODLANE_")}
    try:
        with log.open("ab") as stream:
            sidecar = hosts.pod.popen(
                guarded(sidecar_command(*options)),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=(writing,),
                env={**environment, "NO_COLOR": "1"},
                start_new_session=True,
            )
    finally:
        os.close(writing)
    try:
        readable, _, _ = select.select([ready], [], [], _READY_PATIENCE)
        said = os.read(ready, 64) if readable else b""
    finally:
        os.close(ready)
    if not said:
        happened = "ended before it was ready" if readable else f"did not get ready within {_READY_PATIENCE:g} s"
        raise DemoError(f"The sidecar {happened}.{last_words(log)}")
    return sidecar
