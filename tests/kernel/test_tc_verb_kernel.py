"""``podlane tc`` as a program, on real interfaces in a network namespace; and everything that docs/how-to/tc.md shows."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sidecars import start_sidecar
from tclab import CLIENT, DEVICE, SERVER, Pair, inside, veth_pair
from waiting import until

from podlane.netns import Lab
from tc_core.history import Outcome, SqliteHistory
from tc_core.probe import features
from tc_core.probe.capability import USES, Features

pytestmark = pytest.mark.root

HERE = features.probe() if os.geteuid() == 0 else features.ALL_FEATURES
ROOT = Path(__file__).parents[2]

POLICY = """\
total: 100Mbit
classes:
  - {name: db, rate: 20Mbit, ceil: 50Mbit, priority: 1, match: [{port: 5432, protocol: udp}]}
  - {name: backup, rate: 1Mbit, ceil: 10Mbit, match: [{cidr: [10.0.0.0/8], port: 873}]}
"""
ONLY_BACKUP = """\
total: 100Mbit
classes:
  - {name: backup, rate: 1Mbit, ceil: 10Mbit, match: [{cidr: [10.0.0.0/8], port: 873}]}
"""


@dataclass
class Program:
    """``podlane tc`` in one namespace, with a history and policy files of its own."""

    pair: Pair
    folder: Path

    @property
    def history(self) -> Path:
        return self.folder / "history.db"

    def argv(self, *arguments: str, before: tuple[str, ...] = ()) -> list[str]:
        podlane = [sys.executable, "-m", "podlane", "tc", "--history", str(self.history), *arguments]
        return ["ip", "netns", "exec", self.pair.client, *before, *podlane]

    def run(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv(*arguments, before=before), capture_output=True, text=True, check=False)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run it, demand this exit code; what it wrote to standard output."""
        done = self.run(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def policy(self, text: str) -> str:
        path = self.folder / f"{abs(hash(text))}.yaml"
        path.write_text(text)
        return str(path)

    def apply(self, text: str) -> str:
        return self("apply", DEVICE, "--file", self.policy(text))

    def tc(self, words: str) -> str:
        return self.pair.on_client("tc", *words.split())

    def send(self, port: int, count: int = 1) -> None:
        """Datagrams to the server."""
        with inside(self.pair.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for _ in range(count):
                sender.sendto(bytes(1000), (SERVER, port))


@pytest.fixture
def podlane(tmp_path: Path) -> Iterator[Program]:
    with veth_pair() as pair:
        yield Program(pair, tmp_path)


def test_apply_diff_show_clear(podlane: Program) -> None:
    untouched = podlane.tc(f"qdisc show dev {DEVICE}")
    path = podlane.policy(POLICY)
    planned = podlane("diff", DEVICE, "--file", path, code=1)
    assert podlane("apply", DEVICE, "--file", path) == planned
    assert podlane("diff", DEVICE, "--file", path) == ""
    assert podlane("apply", DEVICE, "--file", path) == ""
    podlane.send(5432, 3)
    podlane.send(9, 2)
    tree = podlane.json("show", DEVICE)["sends"]["tree"]
    packets = {c["name"]: c["counters"]["packets"] for c in tree["children"][0]["children"]}
    assert packets == {"db": 3, "backup": 0, "default": 2}
    said = podlane("show", DEVICE, "--rates")
    assert "as change 1 left it" in said
    assert "UDP on port 5432 → db" in said
    assert "- tc qdisc del dev eth0 root" in podlane("clear", DEVICE)
    assert podlane.tc(f"qdisc show dev {DEVICE}") == untouched
    assert podlane("clear", DEVICE) == ""


def test_printed_commands_do_the_same_in_a_shell(podlane: Program) -> None:
    """The JSON has them whole; what they make is what apply would have made."""
    path = podlane.policy(POLICY)
    plan = subprocess.run(
        podlane.argv("diff", DEVICE, "--file", path, "--json"), capture_output=True, text=True, check=False
    )
    for step in json.loads(plan.stdout)["commands"]:
        podlane.pair.on_client("sh", "-ec", step["command"])
    assert podlane("diff", DEVICE, "--file", path) == ""


@pytest.mark.parametrize(
    "command",
    ["root handle 5: tbf rate 1mbit burst 10k latency 10ms", "root handle 5: htb default 10", "root handle 5: bfifo limit 10000"],
    ids=["tbf", "htb", "bfifo"],
)  # fmt: skip
def test_somebody_elses_root_stays_until_told_otherwise(podlane: Program, command: str) -> None:
    podlane.tc(f"qdisc add dev {DEVICE} {command}")
    before = podlane.tc(f"qdisc show dev {DEVICE}")
    path = podlane.policy(POLICY)
    refused = podlane.run("apply", DEVICE, "--file", path)
    assert refused.returncode == 1
    assert "root handle 5:" in refused.stderr
    assert "--replace" in refused.stderr
    assert "not Podlane's" in podlane("show", DEVICE)
    podlane("clear", DEVICE)
    assert podlane.tc(f"qdisc show dev {DEVICE}") == before
    podlane("apply", DEVICE, "--file", path, "--replace")
    assert podlane("diff", DEVICE, "--file", path) == ""


RECEIVING = """\
total: 100Mbit
ingress: {total: 50Mbit}
classes:
  - {name: db, rate: 20Mbit, ingress: {rate: 5Mbit, ceil: 20Mbit}, match: [{port: 5432, protocol: udp}]}
"""


@pytest.mark.parametrize("has_clsact", [False, True], ids=["nothing there", "clsact of others"])
def test_what_arrives_goes_through_the_ifb_and_back(podlane: Program, has_clsact: bool) -> None:
    if has_clsact:
        podlane.tc(f"qdisc add dev {DEVICE} clsact")
    untouched = podlane.tc(f"qdisc show dev {DEVICE}")
    podlane.apply(RECEIVING)
    with inside(podlane.pair.server, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.bind((SERVER, 5432))
        sender.sendto(bytes(1000), (CLIENT, 1234))
    through = podlane.json("show", DEVICE)["receives"]["through"]
    packets = {c["name"]: c["counters"]["packets"] for c in through["tree"]["children"][0]["children"]}
    assert packets == {"db": 1, "default": 0}
    assert podlane("diff", DEVICE, "--file", podlane.policy(RECEIVING)) == ""
    podlane("clear", DEVICE)
    assert podlane.tc(f"qdisc show dev {DEVICE}") == untouched
    assert "ifb" not in podlane.pair.on_client("ip", "-o", "link")


def test_an_earlier_state_is_restored(podlane: Program) -> None:
    podlane.apply(POLICY)
    classes = sorted(podlane.tc(f"class show dev {DEVICE}").splitlines())
    podlane.apply(ONLY_BACKUP)
    assert "db" not in podlane("show", DEVICE)
    assert podlane("history", "diff", "1", code=1)
    podlane("history", "restore", "1")
    assert sorted(podlane.tc(f"class show dev {DEVICE}").splitlines()) == classes
    assert [(c["number"], c["action"]) for c in podlane.json("history", DEVICE)] == [
        (5, "restore"), (3, "apply"), (1, "apply"),
    ]  # fmt: skip
    assert podlane("history", "diff", "1") == ""


SLOW = "total: 10Mbit\nclasses: [{name: slow, rate: 8kbit, ceil: 8kbit, match: [{port: 5000}]}]\n"


def test_killed_in_the_middle_of_apply(podlane: Program) -> None:
    """A class that is to go has a second to send what it holds: that is when the process is killed."""
    podlane.apply(SLOW)
    podlane.send(5000, 20)
    wanted = podlane.policy(ONLY_BACKUP)
    with SqliteHistory(podlane.history, read_only=True) as log:
        with subprocess.Popen(podlane.argv("apply", DEVICE, "--file", wanted), stdout=subprocess.PIPE) as process:
            until("the intent on disk", lambda: len(log.changes()) == 2)
            until(
                "its first step", lambda: "1:101" not in podlane.tc(f"filter show dev {DEVICE}") or None, patience=0.9
            )
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        [cut, _] = log.changes()
        assert cut.result is Outcome.INTERRUPTED
    assert "1:101" in podlane.tc(f"class show dev {DEVICE}")  # it was to go
    assert f"Change {cut.number} was interrupted" in podlane("history")
    assert "what it left is not certain" in podlane("show", DEVICE)
    assert podlane("diff", DEVICE, "--file", wanted, code=1)
    podlane("apply", DEVICE, "--file", wanted)
    assert podlane("diff", DEVICE, "--file", wanted) == ""
    assert "not certain" not in podlane("show", DEVICE)
    assert [c["result"] for c in podlane.json("history")] == ["done", "interrupted", "done"]


def test_a_sidecars_interface_is_left_to_it(lab: Lab, tmp_path: Path) -> None:
    pod, server = lab.host("pod"), lab.host("server")
    lab.link(pod, "eth0", server, "eth0", gateway=True)
    policy = tmp_path / "mine.yaml"
    policy.write_text(ONLY_BACKUP)

    def podlane(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "podlane", "tc", "--history", str(tmp_path / "history.db"), *arguments]
        return pod.run(command, check=False)

    sidecar = start_sidecar(pod, ONLY_BACKUP, tmp_path)
    try:
        for arguments in (("apply", "eth0", "--file", str(policy)), ("clear", "eth0")):
            refused = podlane(*arguments)
            assert refused.returncode == 1
            assert "A sidecar shapes eth0 in this network namespace" in refused.stderr
        assert "made by the sidecar that runs here" in podlane("show", "eth0").stdout
    finally:
        sidecar.stop()
    assert podlane("apply", "eth0", "--file", str(policy)).returncode == 0


def test_without_privileges_one_may_look(podlane: Program) -> None:
    podlane.apply(POLICY)
    powerless = ("setpriv", "--bounding-set=-all")
    shown = podlane.run("show", DEVICE, before=powerless)
    assert "db 1:101" in shown.stdout
    refused = podlane.run("clear", DEVICE, before=powerless)
    assert refused.returncode == 1
    assert "CAP_NET_ADMIN" in refused.stderr
    assert len(podlane.json("history")) == 1


def test_a_history_that_may_not_be_looked_at(podlane: Program) -> None:
    """As that of root is not by others: its folder is closed to them."""
    podlane.apply(POLICY)
    os.chown(podlane.folder, 65534, 65534)
    podlane.folder.chmod(0o700)
    powerless = ("setpriv", "--bounding-set=-all")
    shown = podlane.run("show", DEVICE, before=powerless)
    assert shown.returncode == 0
    assert "htb 1:" in shown.stdout
    assert "Permission denied" in shown.stderr
    assert "Names and policies are not known without it." in shown.stderr
    listed = podlane.run("history", before=powerless)
    assert listed.returncode == 1
    assert "Check that you may read and write it" in listed.stderr


def test_net_admin_is_enough(podlane: Program) -> None:
    """As in a container that has been given no more."""
    path = podlane.policy(POLICY)
    done = podlane.run("apply", DEVICE, "--file", path, before=("setpriv", "--bounding-set=-all,+net_admin"))
    assert done.returncode == 0, done.stderr
    assert podlane("diff", DEVICE, "--file", path) == ""


@pytest.mark.parametrize("no_color", [False, True], ids=["colour", "NO_COLOR"])
def test_on_a_terminal(podlane: Program, no_color: bool) -> None:
    podlane.apply(POLICY)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"} | ({"NO_COLOR": "1"} if no_color else {})
    with os.fdopen(ours, "rb", buffering=0) as reader:
        done = subprocess.run(podlane.argv("show", DEVICE), stdout=theirs, env=environment, check=True)
        os.close(theirs)
        assert done.returncode == 0
        seen = reader.read(65536)
    assert (b"\x1b[" in seen) is not no_color
    assert b"\x1b[" not in podlane.run("show", DEVICE).stdout.encode()


# --- docs/how-to/tc.md ------------------------------------------------------------------------------------------------------


LEFT_OUT = "…"
"""A line of the document that stands for any number of lines."""

_VARYING = (
    (re.compile(r"^  who .*", re.MULTILINE), "  who"),
    (re.compile(r"\d+(\.\d+)? [KM]?i?B\b"), "SIZE"),
    (re.compile(r"\d+"), "N"),
    (re.compile(r" +"), " "),
)
"""What differs from one run to the next: times, processes, counters, and the widths of their columns."""

_QUEUES = (
    (re.compile(r"^.*gso_max_size.*\n", re.MULTILINE), ""),
    (re.compile(r"(bfifo|fq_codel) (limit .*|1ff:.*)"), "QUEUE"),
    (re.compile(r"fifo of SIZE|fq_codel, target \w+"), "QUEUE"),
    (re.compile(r"\bN changes?\b"), "N changes"),
)
"""What differs on a kernel without fq_codel, which the document does not show."""


@dataclass(frozen=True)
class Section:
    """A section of the document: its policy files, and its commands with what they print, each in order."""

    title: str
    blocks: tuple[tuple[str, str], ...]

    def runs_with(self, found: Features) -> bool:
        """Whether the kernel has all that the section is about."""
        text = "".join(body for _, body in self.blocks)
        lacking = (USES.get(feature.name, "") for feature in found if not feature.available)
        return not any(key in text for uses in lacking for key in re.findall(r"`(.+?)`", uses))


def sections() -> list[Section]:
    parts = re.split(r"^##+ (.+)\n", (ROOT / "docs/how-to/tc.md").read_text(), flags=re.MULTILINE)[1:]
    found = [
        Section(title, tuple(re.findall(r"^```(yaml|console)\n(.*?)^```", body, re.DOTALL | re.MULTILINE)))
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    ]
    return [section for section in found if any(kind == "console" for kind, _ in section.blocks)]


def essence(text: str) -> list[str]:
    for pattern, placeholder in (*_VARYING, *(() if HERE.fq_codel.available else _QUEUES)):
        text = pattern.sub(placeholder, text)
    return [line.strip() for line in text.splitlines()]


def is_shown(printed: list[str], shown: list[str]) -> bool:
    """Whether what was printed is what is shown, where lines may be left out."""
    pattern = "".join(r"(.*\n)*" if line == LEFT_OUT else re.escape(f"{line}\n") for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


def _commands(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a block with what is shown below it."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


SHOWN_HERE = {section.title: section for section in sections() if section.runs_with(HERE)}
"""What this kernel has not, the stock kernel shows (tests/stock/queues.txt)."""


@pytest.mark.parametrize("section", SHOWN_HERE.values(), ids=SHOWN_HERE)
def test_what_the_docs_show_is_what_happens(section: Section, podlane: Program) -> None:
    for kind, body in section.blocks:
        if kind == "yaml":
            (podlane.folder / body.splitlines()[0].removeprefix("# ")).write_text(body)
            continue
        for command, shown in _commands(body):
            printed = _as_typed(podlane, command)
            assert is_shown(essence(printed), essence(shown)), f"$ {command}\n{printed}"


def _as_typed(podlane: Program, line: str) -> str:
    """What a line prints for Ada, who is in the group sudo: without it, the history is another and nothing allowed."""
    with_sudo = "sudo " in line
    command = line.replace("sudo ", "").replace("podlane", f"{sys.executable} -m podlane", 1)
    history = podlane.history if with_sudo else podlane.folder / "adas.db"
    environment = {**os.environ, "PODLANE_HISTORY": str(history), "PYTHONPATH": str(ROOT), "SUDO_USER": "ada"}
    before = () if with_sudo else ("setpriv", "--bounding-set=-all")
    done = subprocess.run(
        ["ip", "netns", "exec", podlane.pair.client, *before, "sh", "-c", command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        cwd=podlane.folder, env=environment,
    )  # fmt: skip
    return done.stdout


def test_the_docs_show_every_shaper_and_nothing_of_this_machine() -> None:
    found = sections()
    assert len({section.title for section in found}) == len(found)
    text = "".join(body for section in found for _, body in section.blocks)
    assert all(f"shaper: {shaper}" in text for shaper in ("tbf", "prio", "cake"))
    assert all(f"{key}:" in text for key in ("ingress", "rehearsal"))
    assert str(ROOT) not in text
    assert all(section.runs_with(features.ALL_FEATURES) for section in found)


@pytest.mark.parametrize(
    ("shown", "same"),
    [("a\n…\nd\n", True), ("…\nd\n", True), ("a\nb\nc\nd\n", True), ("a\nd\n", False), ("a\n…\nc\n", False)],
    ids=["middle left out", "beginning left out", "whole", "not said", "another end"],
)
def test_lines_can_be_left_out_where_the_docs_say_so(shown: str, same: bool) -> None:
    assert is_shown(essence("a\nb\nc\nd\n"), essence(shown)) is same
