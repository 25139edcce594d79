"""docs/tutorials/shaped-pod.md: what a newcomer is told to type is typed, in order, once all other tests are done with the cluster."""

from __future__ import annotations

import re
import subprocess

import pytest
from kind_cluster import PAYLOAD_SHARE, ROOT, SHOP, KindCluster
from waiting import until

pytestmark = pytest.mark.timeout(300, method="signal")

MEGABIT = 1e6 / 8
ENTERED = "$ sudo tools/kind-cluster exec "
"""How lines begin whose rest is run here: the tests are within already."""


def commands() -> list[str]:
    """Those of the page's first section."""
    section = (ROOT / "docs/tutorials/shaped-pod.md").read_text().split("\n## ")[1]
    assert section.startswith("From nothing to a shaped Pod\n")
    return [line for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]


def run(line: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line.removeprefix(ENTERED)], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def rate(said: str) -> float:
    """Mbit/s of payload."""
    found = re.fullmatch(r"(\d+) bytes/s\n", said)
    assert found is not None, said
    return int(found[1]) / MEGABIT


def test_every_line_does_what_the_page_says(cluster: KindCluster) -> None:
    cluster.clear()
    lines = commands()
    assert [line for line in lines if not line.startswith(ENTERED)] == ["$ make kind-up"]
    install, *others, send, change = [line for line in lines if line.startswith(ENTERED)]
    run(install)
    until("the API server to reach the injectors", cluster.injects, patience=5)
    for line in others:
        run(line)
    held, free = rate(run(send)), rate(run(send.replace("backup.shop.svc", "api.shop.svc")))
    run(change)
    changed = until("the new limit", lambda: (now := rate(run(send))) > 1.5 * held and now, patience=150)
    print(f"{held:.1f}, {free:.1f} and {changed:.1f} Mbit/s")
    # A file of a megabyte is sent within a second, so that the burst counts.
    assert 0.85 * 8 * PAYLOAD_SHARE <= held <= 1.2 * 8
    assert 0.85 * 24 * PAYLOAD_SHARE <= changed <= 1.3 * 24
    assert free > 2 * 24
    cluster.kubectl("delete", "namespace", SHOP, "--wait=false")
