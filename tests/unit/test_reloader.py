"""From a policy file that changes to what is in force. The data plane's kernel is made up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from planes import API, WEB, Planes, prepared

from sidecar.app.reloader import Reloader
from sidecar.config.data_plane import data_plane_settings
from sidecar.config.loader import contents, load_wanted
from sidecar.config.reload_status import ReloadStatus
from sidecar.config.settings import SidecarSettings
from traffic_policy.policy_file import parse_policy

pytestmark = pytest.mark.trio


@asynccontextmanager
async def follows(file: Path) -> AsyncIterator[tuple[Reloader, Planes]]:
    file.write_text(WEB)
    settings = SidecarSettings(policy=file, admin_port=0)
    async with prepared(WEB) as made:
        reloader = Reloader(
            settings,
            load_wanted(settings),
            made.plane,
            ReloadStatus(),
            partial(data_plane_settings, mesh=None, own_group=1234),
            contents(settings),
        )
        await reloader.begin()
        made.told()
        yield reloader, made


async def test_what_has_not_changed_is_applied_again_only_when_a_signal_says_so(tmp_path: Path) -> None:
    async with follows(tmp_path / "policy.yaml") as (reloader, made):
        await reloader.reload()
        assert made.told() == []
        reloader.ask(signalled=True)
        await reloader.reload()
        assert "rules" in " ".join(made.told())
        await reloader.reload()
        assert made.told() == [], "one signal, one look"


async def test_another_policy_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    async with follows(file) as (reloader, made):
        file.write_text(API)
        await reloader.reload()
        assert made.plane.policy == reloader.wanted.policy == parse_policy(API)
        assert reloader.state.problem is None


def wrong(file: Path, made: Planes) -> None:  # noqa: ARG001
    file.write_text("total: much")


def not_to_be_had(file: Path, made: Planes) -> None:
    file.write_text(API)
    made.installer.refused = 1


@pytest.mark.parametrize(("spoil", "touched"), [(wrong, False), (not_to_be_had, True)])
async def test_a_policy_that_is_not_used_leaves_the_old_one(
    tmp_path: Path, spoil: Callable[[Path, Planes], None], touched: bool
) -> None:
    file = tmp_path / "policy.yaml"
    async with follows(file) as (reloader, made):
        spoil(file, made)
        await reloader.reload()
        assert bool(made.told()) is touched
        assert made.plane.policy == reloader.wanted.policy == parse_policy(WEB)
        assert "is not used" in (reloader.state.problem or "")
        await reloader.reload()
        assert made.told() == [], "it was tried"
