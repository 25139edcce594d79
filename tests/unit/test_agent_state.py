"""What an agent leaves for the next one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datapath.netfilter.backend import BackendKind, Seal
from node_agent.settings import load_settings
from node_agent.state import Earlier, StateFolder
from tc_core.netlink.nftables import Generation
from traffic_policy.errors import ConfigError
from traffic_policy.marks import ClassIds

HERE = (4, 4026531840)
SEAL = Seal(BackendKind.NFT, Generation("0b5f", 7, 12), "ab" * 32)


def test_class_ids_come_back_with_those_not_to_be_used_again(tmp_path: Path) -> None:
    ids = ClassIds.assign(["a", "b"]).evolve(["b", "c"])
    StateFolder(tmp_path / "state").write(HERE, "web", "eth0", Earlier(ids, SEAL))
    folder = StateFolder(tmp_path / "state")
    found = folder.earlier(HERE)
    assert found is not None
    assert (dict(found.ids), found.ids.retired, found.seal) == (dict(ids), ids.retired, SEAL)
    assert folder.all() == {HERE: ("eth0", "")}
    assert folder.earlier((4, 7)) is None
    folder.forget(HERE)
    folder.forget(HERE)
    assert (folder.earlier(HERE), folder.all()) == (None, {})


def test_the_nodes_end_comes_back(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.write(HERE, "web", "eth0", Earlier(ClassIds.assign(["a"]), SEAL, "veth1"))
    assert folder.all() == {HERE: ("eth0", "veth1")}
    found = folder.earlier(HERE)
    assert found is not None
    assert found.node_interface == "veth1"
    [path] = tmp_path.iterdir()
    document = json.loads(path.read_text())
    del document["node_interface"]  # as version 0.2.0 wrote it
    path.write_text(json.dumps(document))
    assert folder.all() == {HERE: ("eth0", "")}


@pytest.mark.parametrize("rules", [None, 3, {}, {"kind": "new", "generation": [], "digest": ""}, "missing"])
def test_what_is_not_known_of_the_rules_is_read_again(tmp_path: Path, rules: object) -> None:
    folder = StateFolder(tmp_path)
    folder.write(HERE, "web", "eth0", Earlier(ClassIds.assign(["a"]), SEAL))
    [path] = tmp_path.iterdir()
    document = json.loads(path.read_text()) | {"rules": rules}
    if rules == "missing":  # as version 0.2.0 wrote it
        del document["rules"]
    path.write_text(json.dumps(document))
    found = folder.earlier(HERE)
    assert found is not None
    assert (dict(found.ids), found.seal) == (dict(ClassIds.assign(["a"])), None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ids": 3}', "\0"])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    folder = StateFolder(tmp_path)
    folder.write(HERE, "web", "eth0", Earlier(ClassIds.assign(["a"])))
    [path] = tmp_path.iterdir()
    path.write_text(text)
    assert folder.earlier(HERE) is None


def test_a_full_disk_is_logged_and_no_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = StateFolder(tmp_path / "state")
    (tmp_path / "state").rmdir()
    folder.write(HERE, "web", "eth0", Earlier(ClassIds.assign(["a"])))
    assert "will not know the class ids" in capfd.readouterr().err


def test_settings_are_told_where_they_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--workloads"):
        load_settings({})
    assert load_settings({}, needs_source=False).admin_port == 15110
    with pytest.raises(ConfigError, match="--admin-port: "):
        load_settings({"admin_port": 70000})
    monkeypatch.setenv("PODLANE_AGENT_ADMIN_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(ConfigError, match=r"PODLANE_AGENT_ADMIN_PORT: .*enableServiceLinks"):
        load_settings({"workloads": tmp_path})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Name another folder by --state"):
        StateFolder(tmp_path / "file" / "state")
