"""The agent's identity, what it keeps on disk, and how it comes back to a control plane."""

from __future__ import annotations

import random
import time
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from fleet_server import FleetCa, fleet_server
from hypothesis import given
from hypothesis import strategies as st

from fleet_api.agent_pb2 import Credentials, EnrolRequest
from fleet_api.desired import DesiredState, FleetPolicy
from fleet_api.limits import MAX_NODE_LABELS
from node_agent.fleet.enrolment import Enrolment
from node_agent.fleet.errors import CallEndedError, EnrolmentError, UnreachableError
from node_agent.fleet.fleet_settings import Address, FleetSettings, JoinProof, parse_addresses
from node_agent.fleet.identity import IdentityFiles, new_key, request_for
from node_agent.fleet.link import pause
from node_agent.fleet.node_labels import NodeLabels, labels_to_say, parse_node_labels
from node_agent.fleet.saved_state import SavedState, decoded, encoded
from node_agent.settings import load_settings
from traffic_policy.errors import ConfigError

STATE = DesiredState(7, {"p": FleetPolicy("p", 3, '{"total": "1Mbit"}', {"app": "wéb"})})


def test_what_was_desired_is_read_as_it_was_written(tmp_path: Path) -> None:
    saved = SavedState(tmp_path)
    assert saved.load() is None
    saved.write(STATE)
    assert saved.load() == STATE
    assert (tmp_path / "desired").stat().st_mode & 0o777 == 0o600


@given(st.data())
def test_no_damage_goes_unseen(data: st.DataObject) -> None:
    content = bytearray(encoded(STATE))
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match=r"^its |^it lacks"):
        decoded(bytes(content))


def test_a_damaged_file_is_removed_and_a_full_disk_is_told(tmp_path: Path) -> None:
    saved = SavedState(tmp_path)
    saved.write(STATE)
    (tmp_path / "desired").write_bytes(b"{}")
    assert saved.load() is None
    assert not (tmp_path / "desired").exists()
    gone = SavedState(tmp_path / "gone")
    gone.write(STATE)
    assert "Free the disk" in gone.trouble


def test_join_tokens_as_they_are_printed() -> None:
    assert JoinProof.parse(" default-x.y." + "A" * 64 + "\n") == JoinProof("default-x.y", "a" * 64)
    assert JoinProof.parse("default-x.y") == JoinProof("default-x.y", "")


def test_addresses() -> None:
    assert parse_addresses("cp.example:1, [::1]:2,127.0.0.1:3") == (
        Address("cp.example", 1), Address("::1", 2), Address("127.0.0.1", 3),
    )  # fmt: skip
    for text in ("cp.example", "cp:0", "cp:99999", "https://cp:1", "a b:1"):
        with pytest.raises(ConfigError, match="Write HOST:PORT"):
            parse_addresses(text)


def test_pauses_grow_are_random_and_end_at_twenty_seconds() -> None:
    longest = [pause(attempt, lambda: 1.0) for attempt in range(40)]
    assert longest[:4] == [0.5, 1.0, 2.0, 4.0]
    assert longest[-1] == max(longest) == 20.0
    part = random.Random(5).random
    assert len({pause(3, part) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"join_token": "x"}, "Name it by --control-plane"),
        ({"control_plane": "nowhere"}, "Write HOST:PORT"),
        ({"control_plane": ","}, "Nothing is named"),
        ({"control_plane": "a:1", "cluster": "A b"}, "--cluster"),
    ],
)
def test_settings_that_do_not_fit(given: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_settings({"node": "n1", **given})


def test_labels_are_cut_to_what_the_control_plane_takes() -> None:
    of_node = {f"feature.node.kubernetes.io/f{n}": "true" for n in range(100)} | {"zone": "a", "rack": "7"}
    of_node["topology.kubernetes.io/zone"] = "eu-1"
    said = labels_to_say({"rack": "8", "zz": "1"}, of_node)
    assert len(said) == MAX_NODE_LABELS
    assert (said["rack"], said["zz"], said["topology.kubernetes.io/zone"]) == ("8", "1", "eu-1")
    assert said["kubernetes.io/os"] == "linux"


def test_labels_of_a_node_given_by_hand() -> None:
    assert parse_node_labels("zone=a, example.com/rack=7,empty=") == {"zone": "a", "example.com/rack": "7", "empty": ""}
    with pytest.raises(ConfigError, match="'zone' is no label"):
        parse_node_labels("zone")


@pytest.mark.trio
async def test_a_damaged_file_of_labels_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "node-labels").write_text("{")
    assert "zone" not in NodeLabels(tmp_path, {}, followed=True).said
    await NodeLabels(tmp_path, {}, followed=False).known()


def test_the_join_token_is_never_shown() -> None:
    assert "s3cret" not in repr(load_settings({"node": "n1", "control_plane": "a:1", "join_token": "s3cret"}))


def settings(folder: Path, port: int, **given: str | Path) -> FleetSettings:
    folder.mkdir(exist_ok=True)
    return FleetSettings((Address("127.0.0.1", port),), folder, cluster="c1", node="n1", **given)  # type: ignore[arg-type]


async def joined(ours: FleetSettings) -> Enrolment:
    made = Enrolment(ours, IdentityFiles(ours.data))
    await made.load()
    await made.valid(ours.addresses[0])
    return made


@pytest.mark.trio
async def test_joining_is_done_once_and_again_when_it_has_to_be(tmp_path: Path) -> None:
    ca = FleetCa()
    ca.lifetime = -60.0  # it has expired when it is used
    token = tmp_path / "token"
    token.write_text(f"first.{ca.digest}\n")
    with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as server:
        ours = settings(tmp_path / "data", server.port, join_token=f"@{token}")
        first = await joined(ours)
        assert first.credentials is not None
        assert first.credentials.cluster_and_node == ("c1", "n1")
        assert [each.join_token for each in ca.asked] == ["first"]
        with pytest.raises(EnrolmentError, match=r"certificate has expired, at 20.*podlane join-token"):
            await joined(ours)  # the token is spent
        ca.lifetime = 3600.0
        token.write_text(f"second.{ca.digest}\n")
        second = await joined(ours)
        assert await second.valid(ours.addresses[0]) is second.credentials
        third = await joined(ours)
        assert third.credentials == second.credentials, "another start has it from the disk"
        assert [each.join_token for each in ca.asked] == ["first", "second"]
        # Refused, and nothing new to show: it goes on asking with what it has.
        third.refused()
        assert await third.valid(ours.addresses[0]) is third.credentials
        token.write_text(f"third.{ca.digest}\n")
        await third.valid(ours.addresses[0])
        assert [each.join_token for each in ca.asked] == ["first", "second", "third"]
    # Another name is another agent.
    other = Enrolment(FleetSettings(ours.addresses, ours.data, cluster="c2", node="n1"), IdentityFiles(ours.data))
    await other.load()
    assert other.credentials is None


@pytest.mark.trio
async def test_a_lost_answer_is_asked_for_with_the_same_key(tmp_path: Path) -> None:
    ca = FleetCa()
    lose = True

    def enrol(request: EnrolRequest, context: grpc.ServicerContext) -> Credentials:
        made = ca.enrol(request, context)
        if lose:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return made

    with fleet_server(ca.ca, enrol=enrol, mutual=False) as server:
        ours = settings(tmp_path / "data", server.port, join_token=f"t.{ca.digest}")
        with pytest.raises(CallEndedError, match="gone"):
            await joined(ours)
        lose = False
        await joined(ours)
    keys = {x509.load_der_x509_csr(each.csr).public_key().public_numbers() for each in ca.asked}
    assert len(keys) == 1
    assert not (tmp_path / "data" / "joining.pem").exists()


@pytest.mark.trio
async def test_a_service_account_and_a_root_in_a_file(tmp_path: Path) -> None:
    ca = FleetCa()
    (tmp_path / "token").write_text("jwt\n")
    (tmp_path / "ca.pem").write_text(ca.roots)
    with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as server:
        ours = settings(tmp_path / "d", server.port, service_account_token=tmp_path / "token")
        with pytest.raises(EnrolmentError, match="Name its root by --control-plane-ca"):
            await joined(ours)
        await joined(
            settings(tmp_path / "d", server.port, service_account_token=tmp_path / "token", ca=tmp_path / "ca.pem")
        )
        assert [each.service_account_token for each in ca.asked] == ["jwt"]
        (tmp_path / "ca.pem").write_text("none")
        with pytest.raises(EnrolmentError, match="roots cannot be read"):
            await joined(settings(tmp_path / "e", server.port, join_token="t", ca=tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match="no digest of the control plane's root"):
        await joined(settings(tmp_path / "f", 1, join_token="t"))
    with pytest.raises(ConfigError, match=r"--join-token: .*gone cannot be read"):
        await joined(settings(tmp_path / "f", 1, join_token=f"@{tmp_path}/gone"))


@pytest.mark.trio
async def test_a_man_in_between_gets_no_token(tmp_path: Path) -> None:
    right, wrong = FleetCa(), FleetCa()
    with (
        fleet_server(wrong.ca, enrol=wrong.enrol, mutual=False) as server,
        pytest.raises(EnrolmentError, match="no root with the digest"),
    ):
        await joined(settings(tmp_path / "d", server.port, join_token=f"t.{right.digest}"))
    # One that shows the right root, too, but has no certificate of it.
    with (
        fleet_server(wrong.ca, enrol=wrong.enrol, mutual=False, also=right.roots) as server,
        pytest.raises(UnreachableError, match="cannot be trusted"),
    ):
        await joined(settings(tmp_path / "d", server.port, join_token=f"t.{right.digest}"))
    assert wrong.asked == []


@pytest.mark.trio
async def test_renewals_take_only_what_fits(tmp_path: Path) -> None:
    ca = FleetCa()
    with fleet_server(ca.ca, enrol=ca.enrol, mutual=False) as server:
        have = (await joined(settings(tmp_path / "d", server.port, join_token=f"t.{ca.digest}"))).credentials
    assert have is not None
    with pytest.raises(EnrolmentError, match="for another key"):
        have.renewed(ca.issue(request_for(new_key())), [have.key])
    with pytest.raises(EnrolmentError, match="roots cannot be read"):
        have.renewed(Credentials(roots="nothing"), [have.key])
    both = ca.roots + FleetCa().roots
    rotated = have.renewed(Credentials(roots=both), [have.key])
    assert (rotated.roots, rotated.chain, rotated.renew_at) == (both, have.chain, have.renew_at)
    key = new_key()
    after = have.renewed(ca.issue(request_for(key)), [key, have.key])
    assert (after.key, after.token) == (key, have.token)
    assert after.expires > time.time()
