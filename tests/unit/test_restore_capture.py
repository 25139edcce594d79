"""Capture that the supervisor has taken away: who puts it back, and when."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from datapath.netfilter.changes import MangleChanges
from datapath.netfilter.install import Backend, Installer, InstallReport
from datapath.netfilter.rules import Rule
from datapath.netfilter.ruleset import Ruleset
from datapath.shaping import Shaping
from sidecar.app.assembly import assemble
from sidecar.app.sidecar import Sidecar
from sidecar.config.loader import Wanted
from sidecar.config.settings import SidecarSettings
from sidecar.supervisor.client import SupervisorClient
from sidecar.supervisor.heartbeat import Heartbeat, new_page
from sidecar.supervisor.ipc import IpcChannel
from tc_core.fake.kernel import FakeKernel
from tc_core.probe.capability import ALL_FEATURES
from traffic_policy.errors import ConfigError
from traffic_policy.policy_file import parse_policy

POLICY = parse_policy("total: 100Mbit\nclasses: [{name: port, rate: 1Mbit, match: {port: 80}}]")


class Recorded(Installer):
    """An installer that installs nothing, and remembers whether somebody else could have done so meanwhile."""

    def __init__(self, alone: Callable[[], bool] = lambda: True) -> None:
        super().__init__(cast("Backend", None))
        self.alone = alone
        self.seen: list[bool] = []

    def install(self, ruleset: Ruleset) -> InstallReport:  # noqa: ARG002
        self.seen.append(self.alone())
        return InstallReport(changed=True, adopted=False)

    def changes(self) -> MangleChanges:
        return cast("MangleChanges", SimpleNamespace(fileno=lambda: None, arrived=lambda: False, close=lambda: None))

    def missing_rules(self, ruleset: Ruleset) -> list[str]:  # noqa: ARG002
        return []

    def missing_routes(self, ruleset: Ruleset) -> list[str]:  # noqa: ARG002
        return []

    def remove(self) -> bool:
        return False

    def has_rule(self, chain: str, rule: Rule) -> bool:  # noqa: ARG002
        return False


def sidecar(settings: SidecarSettings, installer: Installer) -> Sidecar:
    shaping = Shaping(FakeKernel("eth0"), "eth0", ALL_FEATURES, replace=False)
    return assemble(settings, Wanted(settings, POLICY), shaping, installer, own_group=1234)


@contextmanager
def supervised() -> Iterator[tuple[SupervisorClient, IpcChannel]]:
    """A proxy's client, and its supervisor's end."""
    page = new_page()
    heartbeat = Heartbeat(page)
    os.close(page)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield SupervisorClient(IpcChannel(theirs), heartbeat, {}, again=True), IpcChannel(ours)
    heartbeat.close()


@pytest.mark.trio
async def test_who_is_told_to_puts_back_what_captures() -> None:
    resumed = trio.Event()
    told: list[str] = []

    async def put_back() -> None:
        told.append("put back")
        resumed.set()

    with supervised() as (client, supervisor), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.listen, put_back, lambda: told.append("bypassed"))
            supervisor.send("bypass")
            supervisor.send("resume")
            await resumed.wait()
            assert told == ["bypassed", "put back"]
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_is_put_in_force_first_is_nobody_elses_to_change_meanwhile() -> None:
    """The supervisor may want capture put back, where a start was silent for long; nor when that has failed."""
    settings = SidecarSettings(policy=Path("policy.yaml"), watch=False, admin_port=0)
    installer = Recorded(lambda: begins._plane.changing.locked())
    begins = sidecar(settings, installer)

    def on_ready() -> None:
        assert not begins._plane.changing.locked()
        raise ConfigError("enough")

    with pytest.raises(ExceptionGroup):
        await begins.run(no_signals(), on_ready, lambda _: None)
    await begins.restore_capture()
    assert installer.seen == [True]


async def no_signals() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0
