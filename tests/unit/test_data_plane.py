"""The order in which a policy is put in force, and what becomes of it where a step fails. No process, no kernel."""

from __future__ import annotations

import pytest
from planes import API, PORT, SETTINGS, WEB, prepared

from datapath.errors import RulesetError
from datapath.netfilter.capture_settings import OWNER_PART, PRIORITY_PART
from tc_core.apply.execute import ApplyError
from traffic_policy.policy_file import parse_policy
from traffic_policy.units import Duration

pytestmark = pytest.mark.trio


async def test_nothing_leads_where_nobody_is_yet_and_what_goes_goes_last() -> None:
    async with prepared(WEB) as made:
        assert await made.apply(WEB) == [
            "classes web", "server", "fallback 0", "rules 0", "classes that go", "ids ['default', 'web']"
        ]  # fmt: skip
        # Until the new rules are written, both may have to be undone.
        assert await made.apply(API) == [
            "classes api", "server follows", "fallback 0 1", "rules 1", "fallback 1", "classes that go",
            "ids ['api', 'default']",
        ]  # fmt: skip
        assert len(made.servers) == 1
        assert "api" in made.servers[0].routing.ids


async def test_what_is_in_force_already_is_not_written_again_unless_told() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        again = ["classes web", "server follows", "classes that go", "ids ['default', 'web']"]
        first = await made.apply(WEB)
        # Live connections of the policy before have rules of their own from now on.
        assert [each for each in first if not each.startswith(("rules", "fallback"))] == again
        assert await made.apply(WEB) == again
        made.plane.look_again()
        assert [each for each in await made.apply(WEB) if each not in again] == ["rules 0"]


async def test_a_failure_puts_the_old_policy_back_under_the_ids_it_had() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        ids = made.plane.status().ids
        made.installer.refused = 1
        with pytest.raises(RulesetError):
            await made.apply(API)
        told = made.told()
        assert [each for each in told if "fallback" not in each] == [
            "classes api", "server follows", "rules 1 refused",
            "classes web", "server follows", "rules 0", "classes that go", "ids ['default', 'web']",
        ]  # fmt: skip
        status = made.plane.status()
        assert (status.policy, dict(status.ids)) == (parse_policy(WEB), dict(ids))
        assert dict(made.servers[0].routing.ids) == dict(ids)


async def test_where_classes_fail_nothing_else_is_touched() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        made.kernel.fail_at(0)
        with pytest.raises(ApplyError):
            await made.apply(API)
        assert made.told() == [
            "classes api",
            "classes web",
            "server follows",
            "classes that go",
            "ids ['default', 'web']",
        ]


async def test_the_first_policy_has_none_before_it_to_go_back_to() -> None:
    async with prepared(WEB) as made:
        made.installer.refused = 1
        with pytest.raises(RulesetError):
            await made.apply(WEB)
        assert made.told() == ["classes web", "server", "fallback 0", "rules 0 refused"]


async def test_a_kernel_that_cannot_tell_whose_packets_are_whose_is_said_and_tried_again() -> None:
    async with prepared(PORT) as made:
        made.installer.without = frozenset({OWNER_PART, PRIORITY_PART})
        made.installer.refused = 1
        await made.apply(PORT)
        status = made.plane.status()
        assert (status.capture.own_group, status.capture.resets_priority) == (None, False)
        assert status.problem.endswith("this kernel lacks the CLASSIFY target and owner match of netfilter")
        made.plane.look_again()
        await made.apply(PORT)
        assert made.plane.status().capture.resets_priority
        assert not made.plane.status().problem


async def test_a_policy_of_ports_needs_no_server() -> None:
    async with prepared(PORT) as made:
        await made.apply(PORT)
        assert made.servers == []
        assert not made.plane.status().captures
        await made.plane.stop_capture()
        assert await made.plane.drain(Duration.parse("1s")) == 0
        assert made.told() == []


async def test_a_server_that_is_needed_no_more_ends_when_its_connections_have() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        made.servers[0].active = 1
        await made.apply(PORT)
        await made.plane.maintain()
        assert made.told() == []
        made.servers[0].active = 0
        await made.plane.maintain()
        drained, *rest = made.told()
        assert drained == f"server drains {SETTINGS.grace}"
        assert [each.split()[0] for each in rest] == ["fallback", "rules", "fallback"]
        assert not made.plane.status().captures


async def test_the_rules_are_put_back_whole() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        await made.plane.restore_capture()
        assert made.told() == ["installed rules are looked at", "fallback 0", "rules 0"]


async def test_the_end_goes_the_other_way() -> None:
    async with prepared(WEB) as made:
        await made.apply(WEB)
        await made.plane.stop_capture()
        assert await made.plane.drain(Duration.parse("1s")) == 0
        await made.plane.remove()
        assert [each for each in made.told() if "fallback" not in each] == [
            "rules 1 without capture", "server drains 1s", "rules removed", "classes removed"
        ]  # fmt: skip
        assert made.kernel.observe("eth0").classes == ()


async def test_the_status_is_what_is_in_force_and_was_counted() -> None:
    async with prepared(WEB) as made:
        assert made.plane.status().read_at is None
        await made.apply(WEB)
        status = made.plane.status()
        assert [each.name for each in status.snapshots] == ["web", "default"]
        assert status.read_at is not None
        sent, received = await made.plane.classes_in_kernel()
        assert {each.handle for each in status.snapshots} <= sent.keys()
        assert received == {}
