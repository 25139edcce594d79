"""Pods found by the cgroups of their processes: in a /proc of our own, with the forms that there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node_agent.container_runtime import find_networks

UID = "9f8e7d6c-5b4a-4c3d-8e2f-102938475610"
OTHER = "11111111-2222-4333-8444-555555555555"
SYSTEMD = f"kubepods-burstable-pod{UID.replace('-', '_')}.slice"
CONTAINER = "cri-containerd-0a1b.scope"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """With a process of the node, and this one."""
    made = tmp_path / "proc"
    network(tmp_path, "host")
    process(made, "1", "0::/init.scope", tmp_path / "host")
    (made / "self").symlink_to("1")
    return made


def network(folder: Path, name: str) -> Path:
    """Stands for a network namespace: what counts is a file's device and inode."""
    (folder / name).touch()
    return folder / name


def process(proc: Path, pid: str, cgroup: str, network: Path, began: int = 100) -> None:
    folder = proc / pid
    (folder / "ns").mkdir(parents=True)
    os.link(network, folder / "ns" / "net")
    (folder / "cgroup").write_text(cgroup + "\n")
    after_name = ["S", "1", *["0"] * 17, str(began), "0"]
    (folder / "stat").write_text(f"{pid} (a) b) {' '.join(after_name)}\n")


@pytest.mark.parametrize(
    ("cgroup", "uid"),
    [
        (f"0::/kubepods.slice/kubepods-burstable.slice/{SYSTEMD}/{CONTAINER}", UID),
        (f"0::/../../{SYSTEMD}/{CONTAINER}", UID),
        (f"0::/kubepods/besteffort/pod{UID}/0a1b", UID),
        (f"0::/kubepods/pod{UID}/0a1b", UID),
        (f"12:pids:/kubepods/burstable/pod{UID}/0a1b\n1:name=systemd:/kubepods/burstable/pod{UID}/0a1b", UID),
        (f"0::/kubepods/pod{OTHER}/0a1b/kubelet/kubepods/pod{UID}/0c", UID),
        ("0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/0a1b", "0123456789abcdef0123456789abcdef"),
    ],
    ids=["systemd", "from another cgroup namespace", "cgroupfs", "guaranteed", "version 1", "nested", "static Pod"],
)
def test_forms_of_cgroups(tmp_path: Path, proc: Path, cgroup: str, uid: str) -> None:
    process(proc, "7", cgroup, network(tmp_path, "pod"))
    found = find_networks({uid}, proc, tmp_path / "none")
    assert found.keys() == {uid}
    assert found[uid].path == proc / "7" / "ns" / "net"
    assert found[uid].is_there


@pytest.mark.parametrize(
    "cgroup",
    ["0::/", f"0::/kubepods/pod{OTHER}/0a1b", f"0::/system.slice/pod{UID[:-1]}", "0::/user.slice/podman-7.scope"],
)
def test_other_processes_are_not_of_the_pod(tmp_path: Path, proc: Path, cgroup: str) -> None:
    process(proc, "7", cgroup, network(tmp_path, "pod"))
    assert find_networks({UID}, proc, tmp_path / "none") == {}


def test_the_network_of_the_node_is_nobodys(tmp_path: Path, proc: Path) -> None:
    process(proc, "7", f"0::/kubepods/pod{UID}/0a1b", tmp_path / "host")
    assert find_networks({UID}, proc, tmp_path / "none") == {}


def test_the_oldest_process_counts_whatever_its_number(tmp_path: Path, proc: Path) -> None:
    place = network(tmp_path, "pod")
    process(proc, "7", f"0::/kubepods/pod{UID}/0a1b", place, began=900)
    process(proc, "88", f"0::/kubepods/pod{UID}/0000", place, began=300)
    assert find_networks({UID}, proc, tmp_path / "none")[UID].path == proc / "88" / "ns" / "net"


def test_a_name_is_preferred_as_it_outlives_processes(tmp_path: Path, proc: Path) -> None:
    place = network(tmp_path, "pod")
    process(proc, "7", f"0::/kubepods/pod{UID}/0a1b", place)
    (tmp_path / "names").mkdir()
    os.link(place, tmp_path / "names" / "cni-1")
    network(tmp_path / "names", "cni-2")
    found = find_networks({UID}, proc, tmp_path / "names")[UID]
    assert found.path == tmp_path / "names" / "cni-1"
    found.path.unlink()
    assert not found.is_there


def test_processes_that_end_meanwhile_are_passed_over(tmp_path: Path, proc: Path) -> None:
    process(proc, "7", f"0::/kubepods/pod{UID}/0a1b", network(tmp_path, "pod"))
    (proc / "7" / "ns" / "net").unlink()
    (proc / "8").mkdir()
    process(proc, "9", f"0::/kubepods/pod{UID}/0a1b", network(tmp_path, "other"))
    (proc / "9" / "stat").write_text("")
    assert find_networks({UID}, proc, tmp_path / "none") == {}
