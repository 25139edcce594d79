"""Routes of the admin server over a data plane whose kernel is made up."""

from __future__ import annotations

import json
from typing import cast

import pytest
from planes import WEB, Planes, prepared

from daemon.admin_server import Reply
from sidecar.observability.admin_api import AdminApi
from sidecar.observability.metrics import Metrics

pytestmark = pytest.mark.trio


async def ask(made: Planes, path: str, *, missing: tuple[int, ...] = (), ready: bool = True) -> Reply:
    async def ask_workers() -> list[int]:
        return list(missing)

    metrics = Metrics(lambda: made.shaping.snapshots)
    notes = (None, "a policy is refused", "")
    api = AdminApi(made.plane, metrics, source={"policy": "p.yaml"}, ask_workers=ask_workers, notes=lambda: notes)
    found = api.handlers(lambda: ready)[path]({})
    return found if isinstance(found, Reply) else await found


async def test_classes_are_read_when_they_are_not_fresh() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        document = json.loads((await ask(made, "/classes")).body)
        assert [each["name"] for each in document["classes"]] == ["web", "default"]
        assert (document["interface"], document["workers"], document["datapath"]) == ("eth0", 1, "relay")


async def test_classes_are_told_where_the_kernel_tells_nothing_any_more() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        read_at = made.plane.status().read_at
        made.shaping.interface = "gone"
        await made.plane.refresh(0)
        assert made.plane.status().read_at == read_at
        assert [each.name for each in made.plane.status().snapshots] == ["web", "default"]


async def test_the_policy_is_told_with_what_the_kernel_has() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        document = json.loads((await ask(made, "/policy")).body)
        web = document["classes"][0]
        assert (document["source"], web["asked"], web["found_by"]) == ({"policy": "p.yaml"}, web["in_force"], ["relay"])


async def test_health_names_what_is_missing_and_else_what_is_to_be_known() -> None:
    made = Planes(WEB)
    well, ill = await ask(made, "/healthz"), await ask(made, "/healthz", missing=(2,))
    assert (well.status, cast("bytes", well.body).split(b"\n")[:2]) == (200, [b"ok", b"a policy is refused"])
    assert (ill.status, b"worker 2" in ill.body) == (503, True)
    assert [(await ask(made, "/readyz", ready=ready)).status for ready in (False, True)] == [503, 200]
