"""``podlane check`` on the machine that runs the tests, with all privileges and with few."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

CHECK = [sys.executable, "-m", "podlane", "check"]


def test_as_root_everything_needed_is_here_and_nothing_stays() -> None:
    before = subprocess.check_output(["ip", "-o", "link"])
    done = subprocess.run(CHECK, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Everything Podlane needs is here.\n")
    assert "\x1b" not in done.stdout
    assert [line.split()[1] for line in before.decode().splitlines()] == [
        line.split()[1] for line in subprocess.check_output(["ip", "-o", "link"]).decode().splitlines()
    ]


def test_json_has_every_finding_with_its_remedy() -> None:
    done = subprocess.run([*CHECK, "--json"], capture_output=True, text=True, check=False)
    found = {f["name"]: f for f in json.loads(done.stdout)}
    assert {"CAP_NET_ADMIN", "iptables", "TPROXY target", "HTB classes (sch_htb)", "open files"} <= set(found)
    assert all(set(f) == {"group", "name", "status", "detail", "remedy"} for f in found.values())
    assert all(f["remedy"] for f in found.values() if f["status"] == "missing")


@pytest.mark.parametrize(
    ("dropped", "missing"),
    [
        ("-net_admin,-sys_admin", {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}),
        ("-sys_admin", {"CAP_SYS_ADMIN"}),
    ],
    ids=["neither", "a container with NET_ADMIN"],
)
def test_missing_privileges_are_named(dropped: str, missing: set[str]) -> None:
    command = ["unshare", "--net", "setpriv", f"--bounding-set={dropped}", *CHECK, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert missing == {f["name"] for f in found if f["status"] == "missing" and f["group"] == "Privileges"}
