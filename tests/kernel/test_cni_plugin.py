"""The program ``podlane-cni``, started as container runtimes start it: wrong input, and an agent that is away or hangs.

tests/kube/test_cni_real_runtime.py has it with an agent.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node_agent.cni.call import REFUSED, CniCall, CniError
from node_agent.cni.conflist import PluginEntry
from node_agent.cni.server import listen, serve_cni
from traffic_policy.settings import OnFailure

PROGRAM: Final = Path(sys.executable).with_name("podlane-cni")
VERSIONS: Final = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
RESULT: Final = '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}], "dns": {"search": ["a\\"}]"]}}'
VARIABLES: Final = {
    "CNI_CONTAINERID": "a",
    "CNI_NETNS": "/run/netns/a",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u",
}


@pytest.fixture(autouse=True)
def _built() -> None:
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not built: make test-environment")


@pytest.fixture(name="at")
def _at() -> Iterator[Path]:
    """A place for a socket: paths of sockets are short."""
    with TemporaryDirectory(prefix="podlane-cni-") as folder:
        yield Path(folder) / "cni.sock"


def config(at: Path, way: OnFailure = OnFailure.CLOSED, result: str | None = RESULT, **changes: object) -> str:
    """What a container runtime writes to the plugin's standard input."""
    entry = {
        **PluginEntry(at, way, ("kube-system", "podlane")).document(),
        "cniVersion": "1.0.0",
        "name": "net",
        **changes,
    }
    text = json.dumps({key: value for key, value in entry.items() if value is not None})
    return text if result is None else f'{text[:-1]}, "prevResult":\n{result} }}'


def call(command: str, given: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    env = {**VARIABLES, "CNI_COMMAND": command, **variables}
    return subprocess.run(
        [PROGRAM], input=given, env={key: value for key, value in env.items() if value is not None},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def failure(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The error that a call ended with."""
    assert done.returncode == 1
    error: dict[str, Any] = json.loads(done.stdout)
    assert set(error) == {"cniVersion", "code", "msg"}
    return error


def test_it_is_one_static_file() -> None:
    said = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=False)
    assert "not a dynamic executable" in said.stdout + said.stderr
    assert PROGRAM.stat().st_size < 1 << 20


@pytest.mark.parametrize("version", [*VERSIONS, None])
def test_versions(version: str | None, at: Path) -> None:
    done = call("VERSION", config(at, cniVersion=version, result=None), CNI_NETNS=None)
    assert json.loads(done.stdout) == {"cniVersion": version or "1.1.0", "supportedVersions": VERSIONS}
    assert done.returncode == 0


@pytest.mark.parametrize("command", ["DEL", "GC", "STATUS"])
def test_what_needs_no_agent_is_well_without_one(command: str, at: Path) -> None:
    done = call(command, config(at, result=None), CNI_NETNS=None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("", 6),
        ("{", 6),
        ("[]", 6),
        ('{"cniVersion": "1.0.0"', 6),
        ('{"cniVersion": "1.0.0"} {}', 6),
        ('{"cniVersion": "1.0.0", "a": "\\', 6),
        ('{"cniVersion": "1.0.0", "a": [1, {"b": ]}', 6),
        ('{"cniVersion": "1.0.0", "a":}', 6),
        ('{"cniVersion": "1.0.0"}\0', 6),
        ("{}", 1),
        ('{"cniVersion": "0.2.0"}', 1),
        ('{"cniVersion": "2.0.0"}', 1),
        ('{"cniVersion": 1}', 1),
        ('{"cniVersion": "1.\n0.0"}', 1),
        ('{"cniVersion": "' + "1" * 1000 + '"}', 1),
        ('{"cniVersion": "1.0.0", "a": "' + "b" * (1 << 20) + '"}', 5),
        ('{"cniVersion": "1.0.0"}', 7),
        ('{"cniVersion": "1.0.0", "prevResult": {}}', 7),
        (config(Path("/a"), way=OnFailure.OPEN, onFailure="shut"), 7),
        (config(Path("/a"), way=OnFailure.OPEN, socket=7), 7),
        (config(Path("/a"), way=OnFailure.OPEN, timeout="soon"), 7),
        (config(Path("/a"), way=OnFailure.OPEN, timeout=None), 7),
    ],
)  # fmt: skip
def test_wrong_input_has_a_code(given: str, code: int) -> None:
    assert failure(call("ADD", given))["code"] == code


@pytest.mark.parametrize("missing", ["CNI_NETNS", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_COMMAND"])
def test_a_missing_variable_has_a_code(missing: str, at: Path) -> None:
    assert failure(call("ADD", config(at), **{missing: None}))["code"] == 4
    assert failure(call("UPDATE", config(at)))["code"] == 4


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(VALUES, st.dictionaries(st.text(max_size=5), VALUES, max_size=3), st.sampled_from([None, 2]), st.booleans())
def test_a_result_is_found_and_passed_on_as_it_came(
    result: object, others: dict[str, object], indent: int | None, escaped: bool
) -> None:
    given = {
        **others,
        **json.loads(config(Path("/gone"), OnFailure.OPEN, result=None)),
        "prevResult": result,
        "z": others,
    }
    text = json.dumps(given, indent=indent, ensure_ascii=escaped)
    done = call("ADD", text)
    assert (done.returncode, json.loads(done.stdout)) == (0, result)


def test_without_an_agent_a_pod_begins_or_waits_as_configured(at: Path) -> None:
    waits = failure(call("ADD", config(at, OnFailure.CLOSED)))
    assert (waits["code"], waits["cniVersion"]) == (11, "1.0.0")
    assert "does not answer" in waits["msg"]
    assert failure(call("CHECK", config(at, OnFailure.CLOSED)))["code"] == 11
    begins = call("ADD", config(at, OnFailure.OPEN))
    assert (begins.returncode, begins.stdout) == (0, RESULT + "\n"), "the result of the plugins before, as it came"
    assert "begins without its lanes" in begins.stderr
    checked = call("CHECK", config(at, OnFailure.OPEN))
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "exempt"),
    [
        ("K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns", True),
        ("IgnoreUnknown=1;K8S_POD_NAMESPACE=podlane", True),
        ("K8S_POD_NAMESPACE=kube", False),
        ("K8S_POD_NAMESPACE=", False),
        ("K8S_POD_NAME=kube-system", False),
        ('K8S_POD_NAMESPACE=kube-system", "podlane', False),
        ("", False),
    ],
)
def test_pods_of_exempt_namespaces_never_wait(arguments: str, exempt: bool, at: Path) -> None:
    done = call("ADD", config(at, OnFailure.CLOSED), CNI_ARGS=arguments)
    assert (done.returncode == 0) is exempt
    assert done.stdout == RESULT + "\n" if exempt else failure(done)["code"] == 11


@pytest.mark.parametrize("way", list(OnFailure))
def test_an_agent_that_hangs_is_one_that_is_away(way: OnFailure, at: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(at))
        silent.listen(0)
        done = call("ADD", config(at, way, timeout=1))
        again = call("ADD", config(at, way, timeout=1))  # the backlog is full: connect(2) waits, too
    for each in (done, again):
        if way is OnFailure.OPEN:
            assert each.stdout == RESULT + "\n"
        else:
            assert failure(each)["code"] == 11


@pytest.mark.trio
@pytest.mark.parametrize("way", list(OnFailure))
async def test_the_agents_word_counts(way: OnFailure, at: Path) -> None:
    asked: list[CniCall] = []

    async def answer(call: CniCall) -> None:
        asked.append(call)
        if call.pod == "wrong":
            raise CniError(REFUSED, 'no "rate"')

    arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=wrong"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_cni, listen(at), answer)
        for command in ("ADD", "CHECK"):
            done = await trio.to_thread.run_sync(call, command, config(at, way))
            assert (done.returncode, done.stdout) == (0, RESULT + "\n" if command == "ADD" else "")
        refused = await trio.to_thread.run_sync(partial(call, "ADD", config(at, way), CNI_ARGS=arguments))
        nursery.cancel_scope.cancel()
    assert asked[0] == CniCall("1.0.0", "ADD", Path("/run/netns/a"), "shop", "web", "u")
    assert [each.command for each in asked] == ["ADD", "CHECK", "ADD"]
    if way is OnFailure.CLOSED:
        assert failure(refused) == {"cniVersion": "1.0.0", "code": 100, "msg": 'podlane: no "rate"'}
    else:
        assert refused.stdout == RESULT + "\n"


@pytest.mark.trio
@pytest.mark.root
async def test_nobody_but_root_is_answered(at: Path) -> None:
    async def answer(_: CniCall) -> None:
        raise AssertionError("asked by somebody else")

    own = at.with_name("podlane-cni")
    shutil.copy(PROGRAM, own)
    at.parent.chmod(0o755)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_cni, listen(at), answer)
        at.chmod(0o666)
        done = await trio.to_thread.run_sync(
            partial(
                subprocess.run, [own], input=config(at), env={**VARIABLES, "CNI_COMMAND": "ADD"}, user=65534,
                capture_output=True, text=True, timeout=60,
            )
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    assert failure(done)["code"] == 11
