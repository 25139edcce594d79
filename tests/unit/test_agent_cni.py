"""The CNI plugin's questions to the agent, and its place in a node's network configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon import inotify
from daemon.inotify import Inotify
from node_agent.cni.call import CniCall, CniError
from node_agent.cni.conflist import ConflistError, PluginEntry, network_files, with_plugin
from node_agent.cni.installer import PluginInstaller
from node_agent.cni.life import wants_plugin
from node_agent.cni.server import listen
from node_agent.settings import load_settings
from traffic_policy.errors import ConfigError
from traffic_policy.settings import OnFailure

ENTRY = PluginEntry(Path("/run/podlane/agent/cni.sock"), OnFailure.CLOSED, ("kube-system",))
PTP = {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


def conflist(*plugins: object) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "kindnet", "plugins": plugins})


def plugins(text: str | None) -> list[dict[str, Any]]:
    assert text is not None
    found = json.loads(text)
    assert {key: found[key] for key in ("cniVersion", "name")} == {"cniVersion": "1.0.0", "name": "kindnet"}
    listed: list[dict[str, Any]] = found["plugins"]
    return listed


def said(**variables: str) -> bytes:
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items())


def test_a_call_names_the_pod_and_its_network() -> None:
    arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_UID=u"
    call = CniCall.parse(said(CNI_COMMAND="ADD", CNI_NETNS="/run/netns/a", CNI_ARGS=arguments, cniVersion="1.0.0"))
    assert call == CniCall("1.0.0", "ADD", Path("/run/netns/a"), "shop", "web-0", "u")
    alone = CniCall.parse(said(CNI_COMMAND="ADD", CNI_NETNS="/run/netns/a", CNI_ARGS=""))
    assert (alone.namespace, alone.pod, alone.uid) == ("", "", "")


@pytest.mark.parametrize(
    "data",
    [b"", b"CNI_NETNS=/run/netns/a", said(CNI_NETNS=""), said(CNI_NETNS="a/b"), b"\xff\0", said(CNI_ARGS="a=b")],
    ids=["nothing", "half", "none", "relative", "no text", "without"],
)
def test_a_call_without_a_network_is_refused(data: bytes) -> None:
    with pytest.raises(CniError) as refused:
        CniCall.parse(data)
    answer = json.loads(refused.value.answer("1.0.0"))
    assert (answer["cniVersion"], answer["code"]) == ("1.0.0", 4)


def test_the_plugin_comes_last_and_goes_as_it_came() -> None:
    before = conflist(PTP, PORTMAP)
    chained = with_plugin(before, ENTRY)
    assert plugins(chained) == [PTP, PORTMAP, ENTRY.document()]
    assert chained is not None
    assert with_plugin(chained, ENTRY) is None, "nothing to write"
    other = PluginEntry(ENTRY.socket, OnFailure.OPEN)
    assert plugins(with_plugin(chained, other)) == [PTP, PORTMAP, other.document()]
    assert plugins(with_plugin(conflist(PTP, ENTRY.document(), PORTMAP), ENTRY))[-1] == ENTRY.document()
    assert plugins(with_plugin(chained, None)) == [PTP, PORTMAP]
    assert with_plugin(before, None) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no list of plugins"),
        (json.dumps({"cniVersion": "1.0.0", "name": "a", **PTP}), "Write the plugin in it as a .conflist"),
        (conflist(), "no plugins that make a network"),
        (conflist(ENTRY.document()), "no plugins that make a network"),
        (conflist("ptp"), "no list of plugins"),
    ],
)
def test_what_has_no_place_for_it_is_told(text: str, words: str) -> None:
    with pytest.raises(ConflistError, match=words):
        with_plugin(text, ENTRY)


def test_container_runtimes_use_the_first_file() -> None:
    names = ["87-podman.conflist", "10-kindnet.conflist", ".10-a.conflist.part", "README", "10-kindnet.conf.bak"]
    assert network_files(names) == ["10-kindnet.conflist", "87-podman.conflist"]


@pytest.fixture
def node(tmp_path: Path) -> PluginInstaller:
    made = PluginInstaller(tmp_path / "net.d", tmp_path / "bin")
    made.conf.mkdir()
    made.programs.mkdir()
    return made


def test_a_file_keeps_its_mode_and_owner(node: PluginInstaller) -> None:
    with pytest.raises(ConflistError, match=r"no network configuration in .* yet"):
        node.put(ENTRY)
    path = node.conf / "10-a.conflist"
    path.write_text(conflist(PTP))
    path.chmod(0o640)
    if not os.geteuid():
        os.chown(path, 12, 34)
    before = path.stat()
    assert node.put(ENTRY) == path
    assert node.put(ENTRY) is None
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert plugins(path.read_text())[-1] == ENTRY.document()
    (node.conf / "20-single.conf").write_text(json.dumps(PTP))
    assert node.remove() == [path]
    assert plugins(path.read_text()) == [PTP]
    assert node.remove() == []
    assert sorted(os.listdir(node.conf)) == ["10-a.conflist", "20-single.conf"]


def test_the_program_is_copied_once(node: PluginInstaller, tmp_path: Path) -> None:
    source = tmp_path / "podlane-cni"
    with pytest.raises(ConfigError, match=r"compile node_agent/cni/podlane-cni\.c"):
        node.install_program(source)
    source.write_bytes(b"one")
    node.install_program(source)
    there = node.programs / "podlane-cni"
    first = there.stat()
    assert (there.read_bytes(), first.st_mode & 0o777) == (b"one", 0o755)
    node.install_program(source)
    assert there.stat().st_ino == first.st_ino
    source.write_bytes(b"two")
    node.install_program(source)
    assert there.read_bytes() == b"two"
    node.programs.joinpath("podlane-cni").unlink()
    node.programs.rmdir()
    with pytest.raises(ConfigError, match="--cni-bin-dir"):
        node.install_program(source)


@pytest.mark.trio
async def test_it_is_put_back_when_another_program_writes(node: PluginInstaller) -> None:
    path = node.conf / "10-a.conflist"
    watch = Inotify()

    async def until_last(expected: object) -> None:
        while not path.exists() or plugins(path.read_text())[-1] != expected:
            await trio.lowlevel.wait_readable(watch)
            watch.read()

    with watch:
        watch.add(node.conf, inotify.MOVED_TO)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.keep, ENTRY)
            path.write_text(conflist(PTP))  # the node's CNI plugin starts later
            with trio.fail_after(30):
                await until_last(ENTRY.document())
                for others in ((PTP,), (PTP, PORTMAP)):
                    fresh = path.with_suffix(".tmp")
                    fresh.write_text(conflist(*others))
                    fresh.replace(path)
                    await until_last(ENTRY.document())
            nursery.cancel_scope.cancel()
    assert plugins(path.read_text()) == [PTP, PORTMAP, ENTRY.document()]


def test_a_daemon_set_that_goes_wants_no_plugin() -> None:
    env = [{"name": "PODLANE_AGENT_CNI_CONF_DIR", "value": "/etc/cni/net.d"}]

    def document(variables: object, **metadata: str) -> dict[str, Any]:
        spec = {"template": {"spec": {"containers": [{"name": "agent", "env": variables}]}}}
        return {"metadata": {"name": "agent", **metadata}, "spec": spec}

    assert wants_plugin(document(env))
    assert not wants_plugin(document(env, deletionTimestamp="2026-11-28T00:00:00Z"))
    assert not wants_plugin(document([{"name": "PODLANE_AGENT_NODE"}]))
    assert not wants_plugin(document(None))
    assert wants_plugin({}), "what is not understood changes nothing"


def test_the_settings(tmp_path: Path) -> None:
    made = load_settings({"node": "n1", "cni_conf_dir": "/etc/cni/net.d", "cni_exempt": "kube-system,podlane"})
    assert made.exempt_namespaces == ("kube-system", "podlane")
    assert load_settings({"node": "n1"}).exempt_namespaces == ()
    with pytest.raises(ConfigError, match="Take --cni-conf-dir away"):
        load_settings({"workloads": tmp_path / "w.yaml", "cni_conf_dir": "/etc/cni/net.d"})
    for wrong in ({"cni_exempt": '"a"'}, {"daemon_set": "a"}, {"cni_on_failure": "shut"}):
        with pytest.raises(ConfigError, match=r"--cni-|--daemon-set"):
            load_settings({"node": "n1", **wrong})


@pytest.mark.trio
async def test_a_socket_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--state"):
        listen(tmp_path / ("a" * 120))
    path = Path(os.path.relpath(tmp_path / "cni.sock"))  # short
    with listen(path).socket, listen(path).socket as second:
        asked = await trio.open_unix_socket(path)
        with trio.fail_after(5):
            connection, _ = await second.accept()
        connection.close()
        await asked.aclose()
