"""The group by which the proxy's sockets are told from others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datapath.mesh.types import ISTIO
from datapath.own_group import _draw, own_group

FULL = "         0          0 4294967295\n"


def test_groups_are_drawn_from_the_largest_range_and_not_of_the_system() -> None:
    drawn = {_draw(FULL) for _ in range(50)}
    assert len(drawn) == 50
    assert all(1 << 16 <= gid < 1 << 31 for gid in drawn)
    of_a_container = {_draw("0 1000 1\n1 100000 65536\n") for _ in range(50)}
    assert all(1 <= gid <= 65536 for gid in of_a_container)
    assert len(of_a_container) > 40
    assert _draw("1000 0 1\n") == 1000


def test_a_mesh_that_knows_us_by_the_group_has_that_group() -> None:
    assert own_group(ISTIO) == 1337


SHOWS = """
import os, socket, sys, threading
from datapath.own_group import own_group, ordinary_group
before = os.getegid()
own = own_group()
path = sys.argv[1]
def thread():
    with open(path + "/thread", "w"): pass
started = threading.Thread(target=thread); started.start(); started.join()
with ordinary_group(), open(path + "/ordinary", "w"): pass
with open(path + "/own", "w"): pass
here, there = socket.socketpair(socket.AF_UNIX)
peer = here.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
print(own, before, os.getegid(), int.from_bytes(peer[8:], sys.byteorder))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes CAP_SETGID")
def test_it_is_that_of_sockets_and_not_of_the_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SHOWS, tmp_path], capture_output=True, text=True, check=True)
    own, before, now, peer = map(int, done.stdout.split())
    assert own != before == now == peer
    assert {path.name: path.stat().st_gid for path in tmp_path.iterdir()} == {
        "own": own, "thread": own, "ordinary": before,
    }  # fmt: skip


WITHOUT = "import os; from datapath.own_group import own_group; print(own_group() == os.getegid())"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes setpriv's capabilities")
def test_without_the_capability_it_is_the_process_s_own() -> None:
    poor = ["setpriv", "--bounding-set=-setgid", "--inh-caps=-setgid", sys.executable, "-c", WITHOUT]
    done = subprocess.run(poor, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert "add SETGID to the container's capabilities" in done.stderr
