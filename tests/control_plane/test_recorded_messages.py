"""Neighbours of other versions: what an agent and a control plane of 0.3.0 have said, and the same with what a newer one
may add. The bytes were recorded, and stay as they are: a change that does not understand them breaks fleets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_bench import Bench, running_bench

from control_plane.fleet.agent_status import AgentState
from fleet_api.agent_pb2 import FromAgent, ToAgent
from fleet_api.desired import DesiredState, applied

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "fleet" / "messages-0.3.json").read_text())
UNKNOWN = b"\xa2\x06\x03abc"
"""Field 100, a text."""


def as_recorded(message: FromAgent | ToAgent) -> bytes:
    return message.SerializeToString()


def of_a_newer_version(message: FromAgent | ToAgent) -> bytes:
    """With a field that nobody knows yet, beside and in each message."""
    kind = message.WhichOneof("message")
    assert kind is not None
    inner = getattr(message, kind)
    inner.MergeFromString(UNKNOWN)
    for field, value in inner.ListFields():
        if field.is_repeated and field.message_type and not field.message_type.GetOptions().map_entry:
            for each in value:
                each.MergeFromString(UNKNOWN)
    return message.SerializeToString() + UNKNOWN


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


@pytest.mark.parametrize("said", [as_recorded, of_a_newer_version])
def test_an_agent_of_another_version_is_understood(bench: Bench, said: Callable[[FromAgent | ToAgent], bytes]) -> None:
    agent = bench.agent().connect()
    bench.publish()
    bench.read()
    hello, *others = [FromAgent.FromString(bytes.fromhex(each)) for each in RECORDED["from_agent"]]
    agent.say_bytes(said(hello))
    bench.until("it is let in", lambda: bench.state() != AgentState.AWAY)
    bench.fleet.agents("default").watched["east", "n1"] = bench.clock[0] + 60  # somebody looks at its workloads
    for message in others:
        bench.clock[0] += 1
        agent.say_bytes(said(message))
    assert agent.call.ended is None
    status = bench.fleet.agents("default").agents["east", "n1"]
    assert (status.version, status.kernel, dict(status.labels), status.abilities) == (
        "0.3.0", "6.1.0", {"zone": "a"}, ("ebpf",),
    )  # fmt: skip
    assert (status.revision, status.hash.hex()) == (4, RECORDED["hashes"][0])
    assert [(each.workload, each.state, each.reason, each.policy) for each in status.failures] == [
        ("shop/web-1", "refused", "no tc", "web")
    ]
    assert (status.cpu_ms, status.memory, status.troubles) == (1234, 27_000_000, ("shop/web-1: no tc",))
    assert (status.traffic.bytes, status.traffic.backlog) == (1000, 3)
    assert status.details is not None
    assert status.details[0].lanes[0].bytes == 500


@pytest.mark.parametrize("said", [as_recorded, of_a_newer_version])
def test_a_control_plane_of_another_version_is_understood(said: Callable[[FromAgent | ToAgent], bytes]) -> None:
    state, hashes, kinds = DesiredState(), [], []
    for recorded in RECORDED["to_agent"]:
        message = ToAgent.FromString(said(ToAgent.FromString(bytes.fromhex(recorded))))
        kinds.append(message.WhichOneof("message"))
        if message.HasField("desired"):
            state = applied(state, message.desired)
            hashes.append(state.hash.hex())
    assert hashes == RECORDED["hashes"]
    assert (state.revision, list(state.policies)) == (6, ["db"])
    assert kinds == ["desired", "desired", "watch", "question", "credentials", "move"]
