"""An upgrade that fails on the proxy's side: it costs no connection, and nobody waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio
from downward import format_map

from datapath.netfilter.install import Backend, Installer, Report
from datapath.netfilter.rules import Rule
from datapath.netfilter.ruleset import Ruleset
from datapath.shaping import Shaping
from sidecar.app.main import serve
from sidecar.app.sidecar import Sidecar
from sidecar.config.loader import Wanted
from sidecar.config.settings import SidecarSettings
from sidecar.supervisor.client import Guard
from sidecar.supervisor.handover import Heirloom
from sidecar.supervisor.heartbeat import Beats, new_page
from sidecar.supervisor.ipc import Message, Wire
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

    def install(self, ruleset: Ruleset) -> Report:  # noqa: ARG002
        self.seen.append(self.alone())
        return Report(changed=True, adopted=False)

    def remove(self) -> bool:
        return False

    def has_rule(self, chain: str, rule: Rule) -> bool:  # noqa: ARG002
        return False


def sidecar(settings: SidecarSettings, installer: Installer, lock: socket.socket | None = None) -> Sidecar:
    shaping = Shaping(FakeKernel("eth0"), "eth0", ALL_FEATURES, replace=False)
    return Sidecar(settings, Wanted(settings, POLICY), shaping, installer, lock=lock)


# --- what the supervisor hears ----------------------------------------------------------------------------------------


@contextmanager
def guarded(heirloom: Heirloom | None = None) -> Iterator[tuple[Guard, Wire]]:
    """A proxy's guard, and its supervisor's end."""
    page = new_page()
    beats = Beats(page)
    os.close(page)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Guard(Wire(theirs), beats, {}, again=True, heirloom=heirloom), Wire(ours)
    beats.close()


@asynccontextmanager
async def listening(
    guard: Guard, lend: Callable[[], Awaitable[Heirloom | None]], put_back: Callable[[], Awaitable[None]]
) -> AsyncIterator[trio.Event]:
    """It follows what it is told; gives the event by which it has been told to leave."""
    left = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard.listen, put_back, lend, left.set, lambda: None)
            yield left
            nursery.cancel_scope.cancel()


async def hear(wire: Wire) -> Message:
    await trio.lowlevel.wait_readable(wire.socket)
    message, _ = wire.receive()
    assert message is not None
    return message


@pytest.mark.trio
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("Make the Pod anew."), "Make the Pod anew."),
        (OSError(24, "Too many open files"), "It cannot lend what another proxy needs: [Errno 24] Too many open files"),
        (RecursionError("too deep"), "It cannot lend what another proxy needs: too deep"),
    ],
    ids=["its own", "no descriptor is left", "any"],
)
async def test_who_cannot_lend_says_so_and_goes_on(error: Exception, said: str) -> None:
    async def lend() -> Heirloom | None:
        raise error

    with guarded() as (guard, supervisor):
        async with listening(guard, lend, trio.lowlevel.checkpoint) as left:
            supervisor.send("lend")
            assert await hear(supervisor) == {"kind": "lent", "heirloom": None, "problem": said}
            supervisor.send("leave")
            await left.wait()


@pytest.mark.trio
async def test_what_is_lent_too_late_is_kept() -> None:
    """The supervisor has given it up: were it lent then, nobody would give it back."""
    asked, given_up, resumed = trio.Event(), trio.Event(), trio.Event()

    async def lend() -> Heirloom | None:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            given_up.set()

    async def put_back() -> None:
        resumed.set()

    with guarded() as (guard, supervisor):
        async with listening(guard, lend, put_back):
            supervisor.send("lend")
            await asked.wait()
            supervisor.send("resume")
            await given_up.wait()
            await resumed.wait()


# --- the service ------------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_annotations_that_never_end_hold_nobody_up(tmp_path: Path) -> None:
    """Housekeeping, a drain, or what the supervisor wants put back, all of which need the lock."""
    annotations = tmp_path / "annotations"
    os.mkfifo(annotations)
    with socket.socket(socket.AF_UNIX) as lock:
        lends = sidecar(SidecarSettings(annotations=annotations), Recorded(), lock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lends._lend)
            # Opening returns when the other end is open.
            writer = await trio.to_thread.run_sync(partial(annotations.open, "w"))
            with writer:
                assert not lends._changing.locked()
                nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_is_put_in_force_first_is_nobody_elses_to_change_meanwhile() -> None:
    """The supervisor may want capture put back, where a start was silent for long; nor when that has failed."""
    settings = SidecarSettings(policy=Path("policy.yaml"), watch=False, admin_port=0)
    installer = Recorded(lambda: begins._changing.locked())
    begins = sidecar(settings, installer)

    def on_ready() -> None:
        assert not begins._changing.locked()
        raise ConfigError("enough")

    with pytest.raises(ExceptionGroup):
        await begins.run(no_signals(), on_ready, lambda _: None)
    await begins._put_back()
    assert installer.seen == [True]


async def no_signals() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0


def test_an_heir_does_not_step_aside_beside_what_is_relayed(tmp_path: Path) -> None:
    """The annotation may change between the look of the proxy that lends and the heir's."""
    annotations = tmp_path / "annotations"
    said = {"egress-bandwidth": "1G", "datapath": "step-aside"}
    annotations.write_text(format_map({f"podlane.io/{key}": text for key, text in said.items()}))
    settings = SidecarSettings(annotations=annotations, interface="podlane-none")
    with (
        socket.socket(socket.AF_UNIX) as lock,
        guarded(Heirloom(lock)) as (guard, _),
        pytest.raises(ConfigError, match="Upgrade once more"),
    ):
        trio.run(partial(serve, settings, guard=guard))
