"""The operator's records of a cluster's policies in a real control plane."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from test_command import Client, Running, control_plane
from waiting import becomes

from cluster_operator import fleet_records
from cluster_operator.fleet_client import FleetPlane
from cluster_operator.fleet_records import FleetRecords
from cluster_operator.fleet_wish import prefix_of
from traffic_policy.cluster.kinds import TRAFFIC_POLICY
from traffic_policy.cluster.objects import PolicyObject

PATIENCE = 30.0
_numbers = count(1)


def policy(name: str, generation: int = 1, total: str = "100Mbit", **spec: Any) -> PolicyObject:
    about = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "generation": generation}
    return PolicyObject.from_object(TRAFFIC_POLICY, {"metadata": about, "spec": {"total": total, **spec}})


@dataclass
class Operator:
    """Records of one cluster, and what is wanted of them."""

    records: FleetRecords
    policies: dict[str, PolicyObject] = field(default_factory=dict)
    stirred: trio.Event = field(default_factory=trio.Event)

    def want(self, *policies: PolicyObject, problem: str = "") -> None:
        self.records.want({each.uid: (each, problem, "kubectl") for each in policies})

    def stir(self) -> None:
        self.stirred.set()
        self.stirred = trio.Event()

    async def until(self, name: str, reason: str, revision: int | None = None) -> str:
        """The message of a policy's state, once it has this reason."""
        with trio.fail_after(PATIENCE):
            while True:
                stirred, state = self.stirred, self.records.state(f"uid-{name}")
                if state is not None and state.reason == reason and revision in (None, state.revision):
                    return state.message
                await stirred.wait()


@dataclass
class Plane:
    """A control plane, and a token for the cluster `east`."""

    running: Running
    client: Client
    token: Path
    reads: str
    """A token that stays good."""
    cluster: str
    """Of this test alone."""

    def policies(self) -> dict[str, dict[str, Any]]:
        """Records of the cluster, by their names."""
        headers = {"Authorization": f"Bearer {self.reads}"}
        asked = urllib.request.Request(f"{self.running.url}/v1/tenants/default/policies?limit=1000", headers=headers)
        with urllib.request.urlopen(asked) as answer:
            found = {each["name"]: each for each in json.load(answer)["items"]}
        return {name: each for name, each in found.items() if name.startswith(prefix_of(self.cluster))}

    async def until(self, what: str, ask: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        def asked() -> dict[str, dict[str, Any]] | None:
            found = self.policies()
            return found if ask(found) else None

        return await becomes(what, asked, patience=PATIENCE)

    @asynccontextmanager
    async def operator(self, url: str = "", cluster: str = "") -> AsyncIterator[Operator]:
        made = Operator(FleetRecords(FleetPlane(url or self.running.url, self.token, None), cluster or self.cluster))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.records.run, made.stir)
            yield made
            nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Client, str]]:
    """A control plane, a client that is logged in, and a token of an operator."""
    folder = tmp_path_factory.mktemp("plane")
    client = Client(folder)
    with control_plane(folder) as running:
        client.run("login", running.url, given=running.token)
        made = client.run("tokens", "create", "--role", "operator", "--title", "clusters")
        yield running, client, made.stdout.strip()


@pytest.fixture
def plane(running: tuple[Running, Client, str], tmp_path: Path) -> Plane:
    found, client, token = running
    (tmp_path / "token").write_text(token)
    return Plane(found, client, tmp_path / "token", token, f"east-{next(_numbers)}")


@pytest.mark.trio
async def test_a_change_is_a_revision_and_the_audit_log_has_who(plane: Plane) -> None:
    async with plane.operator() as operator:
        operator.want(policy("web", podSelector={"matchLabels": {"app": "web"}}))
        message = await operator.until("web", "Recorded", 1)
        [(name, found)] = plane.policies().items()
        assert message == f"It is revision 1 of {name} in {plane.running.url}."
        assert found["in_force"]["selector"] == {"app": "web", "podlane.io/namespace": "shop"}
        assert found["in_force"]["nodes"] == {"podlane.io/cluster": plane.cluster}
        operator.want(policy("web", 2, "50Mbit"))
        await operator.until("web", "Recorded", 2)
        assert plane.policies()[name]["in_force"]["document"]["total"] == "50Mbit"
        # A generation that says the same, as after a change of the priority.
        operator.want(policy("web", 3, "50Mbit", priority=7))
        await operator.until("web", "Recorded", 2)
    log = plane.client.run("audit", "export").stdout
    assert f"source: kubernetes, cluster {plane.cluster}: TrafficPolicy shop/web, generation 2, by kubectl" in log
    assert f"cluster {plane.cluster}: TrafficPolicy shop/web, generation 3" not in log


@pytest.mark.trio
async def test_the_next_operator_writes_nothing_again_and_puts_right_what_was_changed(plane: Plane) -> None:
    async with plane.operator() as operator:
        operator.want(policy("web"), policy("mail"))
        await operator.until("web", "Recorded", 1)
        await operator.until("mail", "Recorded", 1)
    name = next(each for each in plane.policies() if "web" in each)
    file = plane.token.with_name("other.yaml")
    file.write_text("total: 7Mbit")
    plane.client.run("policy", "apply", name, "-f", str(file))
    async with plane.operator() as operator:
        operator.want(policy("web"), policy("mail"))
        await operator.until("web", "Recorded", 3)
        await operator.until("mail", "Recorded", 1)
    assert plane.policies()[name]["in_force"]["document"]["total"] == "100Mbit"


@pytest.mark.trio
async def test_what_is_gone_is_removed_and_nothing_of_others(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_records, "_GONE_S", 0.5)
    other = replace(plane, cluster=f"{plane.cluster}-2")
    async with other.operator() as neighbour:
        neighbour.want(policy("web"))
        await neighbour.until("web", "Recorded")
    async with plane.operator() as operator:
        operator.want(policy("web"), policy("mail"))
        await operator.until("mail", "Recorded")
    async with plane.operator() as operator:  # one that was deleted while there was no operator
        operator.want(policy("web"))
        found = await plane.until(
            "the end", lambda all_of_them: sum(not each["in_force"] for each in all_of_them.values()) == 1
        )
        await operator.until("web", "Recorded", 1)
        gone = next(name for name, each in found.items() if not each["in_force"])
        assert "mail" in gone
        operator.want(policy("web"), policy("mail"))
        await operator.until("mail", "Recorded", 2)
    assert all(each["in_force"] for each in plane.policies().values())
    assert [each["in_force"] is not None for each in other.policies().values()] == [True]


@pytest.mark.trio
async def test_one_that_is_wrong_leaves_its_record_and_one_that_cannot_be_said_does_not(plane: Plane) -> None:
    async with plane.operator() as operator:
        operator.want(policy("web"), policy("mail"))
        await operator.until("web", "Recorded")
        await operator.until("mail", "Recorded")
        no = policy("mail", 2, podSelector={"matchExpressions": [{"key": "app", "operator": "Exists"}]})
        operator.want(no)
        operator.records.want({
            "uid-mail": (no, "", "kubectl"), "uid-web": (policy("web", 2, "x"), "This is not a rate.", "kubectl"),
        })  # fmt: skip
        assert "Use matchLabels" in await operator.until("mail", "NotExpressible")
        found = await plane.until(
            "the end", lambda all_of_them: sum(not each["in_force"] for each in all_of_them.values()) == 1
        )
        [web] = [each for name, each in found.items() if "web" in name]
        assert web["in_force"]["document"]["total"] == "100Mbit"


@pytest.mark.trio
async def test_what_cannot_be_reached_is_said_and_tried_again(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_records, "_PAUSE_S", 0.2)
    good = plane.token.read_text()
    plane.token.write_text("podlane-default_0123456789abcdef_" + "a" * 43)
    async with plane.operator() as operator:
        operator.want(policy("web"))
        assert "answers 401" in await operator.until("web", "Unreachable")
        plane.token.write_text(good)
        await operator.until("web", "Recorded", 1)
        plane.token.unlink()
        operator.want(policy("web"), policy("mail"))
        assert "The token cannot be read" in await operator.until("mail", "Unreachable")
        await operator.until("web", "Recorded", 1)
    async with plane.operator("http://127.0.0.1:1") as operator:
        operator.want(policy("web"))
        plane.token.write_text(good)
        assert "does not answer" in await operator.until("web", "Unreachable")
