"""The protocol between agents and control plane: what is to be in force, changes of it, and messages in pieces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fleet_api
from fleet_api.desired import DesiredState, FleetPolicy, OtherBaseError, applied, message_of
from fleet_api.framing import FramingError, GrpcUnframer, frame

ROOM = Path(fleet_api.__file__).parent
NAMES = st.sampled_from(["api", "backup", "web", "mail"])
POLICIES = st.builds(
    FleetPolicy,
    name=NAMES,
    revision=st.integers(1, 9),
    document=st.text(max_size=9),
    selector=st.dictionaries(NAMES, st.text(max_size=3), max_size=2),
)
STATES = st.builds(
    lambda revision, policies: DesiredState(revision, {p.name: p for p in policies}),
    st.integers(1, 1000),
    st.lists(POLICIES, max_size=4),
)


def test_the_generated_code_is_that_of_the_protocol(tmp_path: Path) -> None:
    command = [
        "-m",
        "grpc_tools.protoc",
        "-I.",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        "fleet_api/agent.proto",
    ]
    subprocess.run([sys.executable, *command], cwd=ROOM.parent, check=True)
    for made in tmp_path.rglob("agent_pb2.*"):
        assert made.read_text() == (ROOM / made.name).read_text(), "run make proto"


@given(STATES, STATES)
def test_a_change_leads_to_what_it_was_made_for(before: DesiredState, after: DesiredState) -> None:
    assert applied(before, message_of(after, before)) == after
    assert applied(before, message_of(after)) == after, "and so does all of it, whatever was there"


@given(STATES, STATES, STATES)
def test_a_change_against_something_else_is_refused(
    there: DesiredState, base: DesiredState, after: DesiredState
) -> None:
    change = message_of(after, base)
    try:
        assert applied(there, change).policies == after.policies
    except OtherBaseError:
        assert there != base


def test_the_hash_is_of_the_content_alone() -> None:
    web, api = FleetPolicy("web", 1, "{}", {"a": "1", "b": "2"}), FleetPolicy("api", 1, "{}")
    one = DesiredState(1, {"web": web, "api": api})
    same = DesiredState(2, {"api": api, "web": FleetPolicy("web", 1, "{}", {"b": "2", "a": "1"})})
    assert one.hash == same.hash != DesiredState(1, {"web": web}).hash


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 30), min_size=1))
def test_messages_are_found_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(map(frame, messages))
    unframer, found, at, turn = GrpcUnframer(40), [], 0, 0
    while at < len(sent):
        step = cuts[turn % len(cuts)]
        found += unframer.feed(sent[at : at + step])
        at, turn = at + step, turn + 1
    assert found == messages
    assert unframer.between


def test_too_large_or_compressed_is_refused_before_it_has_come() -> None:
    with pytest.raises(FramingError, match="41 bytes is too large: 40 at most"):
        list(GrpcUnframer(40).feed(frame(bytes(41))[:5]))
    with pytest.raises(FramingError, match="must not be compressed"):
        list(GrpcUnframer(40).feed(b"\1\0\0\0\0"))
