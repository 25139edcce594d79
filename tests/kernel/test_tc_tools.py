"""What others see and make: tc(8) runs our commands, ip(8) sees our link, other people's trees stay."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tclab import DEVICE, SERVER, Pair, inside, run, set_mark, veth_pair
from trees import CLASSIC_FIFO, VARIANTS, policy, tree_of

from tc_core.apply.execute import apply, clear
from tc_core.apply.plan import observe_interface, plan
from tc_core.errors import ForeignQdiscError
from tc_core.probe import capability, features
from tc_core.probe.capability import Features
from tc_core.render import tc_commands
from traffic_policy.marks import ClassIds

pytestmark = pytest.mark.root

HERE = features.probe() if os.geteuid() == 0 else features.ALL_FEATURES
WHAT_RUNS_HERE = {
    name: v
    for name, v in VARIANTS.items()
    if (HERE.fw.available or v.classifier != "fw") and (HERE.fq_codel.available or not v.fq_codel.available)
}
POLICY = policy("1Gbit", api="20Mbit 800Mbit 1", odd="1234568bit 33333336bit 3", backup="64kbit 1Mbit 7")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with veth_pair() as made:
        yield made


@pytest.mark.parametrize("variant", WHAT_RUNS_HERE.values(), ids=WHAT_RUNS_HERE)
def test_the_shell_makes_the_same_tree(pair: Pair, variant: Features) -> None:
    tree = tree_of(POLICY, variant)
    pair.on_client("sh", "-e", "-c", "\n".join(tc_commands(tree, DEVICE)))
    assert plan(observe_interface(pair.kernel, DEVICE), tree) == ()


@pytest.mark.parametrize("variant", WHAT_RUNS_HERE.values(), ids=WHAT_RUNS_HERE)
def test_the_shell_makes_the_same_changes(pair: Pair, variant: Features) -> None:
    """Every command of a plan, run by tc(8), does what we would have done: in-place changes and removals too."""
    ids = ClassIds.assign(["api", "odd", "backup"])
    apply(pair.kernel, DEVICE, tree_of(POLICY, variant, ids))
    changed = policy("500Mbit", api="30Mbit 400Mbit 2", new="1Mbit 8Mbit 0", backup="64kbit 2Mbit 7")
    tree = tree_of(changed, variant, ids.evolve(["api", "new", "backup"]))
    for _, change in plan(observe_interface(pair.kernel, DEVICE), tree):
        pair.on_client("sh", "-e", "-c", change.command(DEVICE))
    assert plan(observe_interface(pair.kernel, DEVICE), tree) == ()


def test_both_limits_of_segments_are_lowered_and_restored(pair: Pair) -> None:
    """One attribute sets the limit for IPv6 and, up to 64 KiB, that for IPv4 (kernels before 6.3 have only one)."""

    def limits() -> set[str]:
        words = pair.on_client("ip", "-d", "-j", "link", "show", DEVICE).replace(",", " ").split()
        return {w.partition(":")[2] for w in words if "gso_max_size" in w or "gso_ipv4_max_size" in w}

    apply(pair.kernel, DEVICE, tree_of(POLICY, CLASSIC_FIFO))
    assert limits() == {"16384"}
    clear(pair.kernel, DEVICE)
    assert limits() == {"65536"}


@pytest.mark.parametrize(
    "command",
    [
        "qdisc add dev eth0 root handle 1: tbf rate 1mbit burst 10k latency 10ms",
        "qdisc add dev eth0 root handle 1: htb default 10",
        "qdisc add dev eth0 root bfifo limit 10000",
    ],
    ids=["tbf", "htb", "bfifo"],
)
def test_other_peoples_roots(pair: Pair, command: str) -> None:
    pair.on_client("tc", *command.split())
    before = pair.on_client("tc", "qdisc", "show", "dev", DEVICE)
    tree = tree_of(POLICY, CLASSIC_FIFO)
    with pytest.raises(ForeignQdiscError, match="--replace"):
        apply(pair.kernel, DEVICE, tree)
    assert clear(pair.kernel, DEVICE).done == ()
    assert pair.on_client("tc", "qdisc", "show", "dev", DEVICE) == before
    apply(pair.kernel, DEVICE, tree, replace=True)
    assert plan(observe_interface(pair.kernel, DEVICE), tree) == ()


def test_clsact_of_others_stays(pair: Pair) -> None:
    pair.on_client("tc", "qdisc", "add", "dev", DEVICE, "clsact")
    tree = tree_of(POLICY, CLASSIC_FIFO)
    apply(pair.kernel, DEVICE, tree)
    assert plan(observe_interface(pair.kernel, DEVICE), tree) == ()
    clear(pair.kernel, DEVICE)
    assert "clsact" in pair.on_client("tc", "qdisc", "show", "dev", DEVICE)


def test_a_filter_added_by_hand_goes(pair: Pair) -> None:
    tree = tree_of(POLICY, CLASSIC_FIFO)
    apply(pair.kernel, DEVICE, tree)
    pair.on_client(*f"tc filter add dev {DEVICE} parent 1: protocol ip prio 9 u32 match u32 0 0 flowid 1:101".split())
    apply(pair.kernel, DEVICE, tree)
    assert [f.kind for f in pair.kernel.observe(DEVICE).filters] == ["bpf"]


def test_a_class_changed_by_hand_is_set_right(pair: Pair) -> None:
    tree = tree_of(POLICY, CLASSIC_FIFO)
    apply(pair.kernel, DEVICE, tree)
    pair.on_client(*f"tc class change dev {DEVICE} parent 1:1 classid 1:101 htb rate 1mbit".split())
    assert [type(c).__name__ for _, c in apply(pair.kernel, DEVICE, tree).done] == ["ChangeClass"]
    assert plan(observe_interface(pair.kernel, DEVICE), tree) == ()


def test_the_interface_of_the_default_route(pair: Pair) -> None:
    assert pair.kernel.default_route_interface() is None
    run("ip", "-n", pair.client, "link", "add", "eth9", "type", "veth", "peer", "name", "peer9")
    run("ip", "-n", pair.client, "link", "set", "eth9", "up")
    run("ip", "-n", pair.client, "route", "add", "default", "via", SERVER, "metric", "20")
    assert pair.kernel.default_route_interface() == DEVICE
    run("ip", "-n", pair.client, "route", "add", "default", "dev", "eth9", "metric", "5")
    assert pair.kernel.default_route_interface() == "eth9"
    run("ip", "-n", pair.client, "route", "add", "default", "dev", DEVICE, "table", "99")
    run("ip", "-n", pair.client, "route", "del", "default", "dev", "eth9")
    assert pair.kernel.default_route_interface() == DEVICE


def test_any_thread_may_ask_and_the_namespace_stays(pair: Pair) -> None:
    """Made in one thread, used from many at once: each gets its own answer, about the namespace it was made in."""
    apply(pair.kernel, DEVICE, tree_of(POLICY, CLASSIC_FIFO))
    expected = pair.kernel.observe(DEVICE)
    found: list[bool] = []

    def ask() -> None:
        found.extend(
            pair.kernel.observe(DEVICE) == expected and len(pair.kernel.counters(DEVICE)) == 5 for _ in range(10)
        )

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40


MARK_READERS = {str(variant.classifier): variant for variant in WHAT_RUNS_HERE.values()}
"""One variant for each way in which this kernel can read marks."""


@pytest.mark.parametrize("variant", MARK_READERS.values(), ids=MARK_READERS)
def test_every_mark_reaches_its_class_and_no_other(pair: Pair, variant: Features) -> None:
    """One packet under each of 256 class ids, with foreign bits beside; counted class by class."""
    ids = ClassIds.assign([f"c{i}" for i in range(40)]).evolve(
        ["c0", "c3", "c31", "c32", "c39", *(f"d{i}" for i in range(214))]
    )
    written = policy("1Gbit", **{name: "1Mbit" for name in ids if name != "default"})
    apply(pair.kernel, DEVICE, tree_of(written, variant, ids))
    with inside(pair.client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        for class_id in range(256):
            set_mark(sender, class_id << 24 | 0x2080)
            sender.sendto(b"x", (SERVER, 9))
    counted = {h.minor: s.packets for h, s in pair.kernel.counters(DEVICE).items()}
    assert counted.pop(1) == 256
    default = counted.pop(0x1FF)
    assert counted == {0x100 | i: 1 for i in ids.values() if i != 255}
    assert default == 256 - len(counted)
    assert default > 1


def test_without_privileges_the_error_says_which(pair: Pair) -> None:
    program = "from tc_core.rtnetlink.kernel import NetlinkKernel; from tc_core.kernel import SetLink; NetlinkKernel().apply('eth0', SetLink(tx_queue_len=5))"
    refused = subprocess.run(
        ["ip", "netns", "exec", pair.client, "setpriv", "--bounding-set=-all", sys.executable, "-c", program],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = refused.stderr.splitlines()[-1]
    assert "ip link set dev eth0 txqueuelen 5: Operation not permitted" in last
    assert "CAP_NET_ADMIN" in last


# --- features --------------------------------------------------------------------------------------------------------


def _links() -> str:
    return run("ip", "-o", "link")


def test_probing_leaves_nothing_behind() -> None:
    before = _links(), run("tc", "qdisc", "show")
    assert features.probe() == HERE
    assert (_links(), run("tc", "qdisc", "show")) == before


def test_with_net_admin_alone_classic_bpf_does_it(pair: Pair) -> None:
    """A container with only NET_ADMIN may neither make namespaces nor call bpf(2): probed on a link of its own."""
    program = "\n".join(
        (
            "import json",
            "from tc_core.probe.features import probe",
            "found = probe()",
            "print(json.dumps({f.name: [f.available, f.errno] for f in found}))",
        )
    )
    answer = pair.on_client("setpriv", "--bounding-set=-all,+net_admin", sys.executable, "-c", program)
    found = json.loads(answer)
    assert found[capability.HTB] == [True, None]
    assert found[capability.SOCKETS] == [False, errno.EPERM]
    assert found[capability.CLASSIC_BPF] == [True, None]
    assert found[capability.FW][0] == HERE.fw.available
    assert "podlane" not in pair.on_client("ip", "-o", "link")


def test_with_net_admin_alone_a_policy_is_installed(pair: Pair) -> None:
    program = "\n".join(
        (
            "import sys; sys.path.insert(0, sys.argv[1])",
            "from trees import policy, tree_of",
            "from tc_core.apply.execute import apply; from tc_core.probe import features",
            "from tc_core.rtnetlink.kernel import NetlinkKernel",
            "tree = tree_of(policy(a='1Mbit'), features.probe())",
            "with NetlinkKernel() as kernel: print(len(apply(kernel, 'eth0', tree).done))",
        )
    )
    trees = str(Path(__file__).parents[1])
    pair.on_client("setpriv", "--bounding-set=-all,+net_admin", sys.executable, "-c", program, trees)
    assert plan(observe_interface(pair.kernel, DEVICE), tree_of(policy(a="1Mbit"), HERE)) == ()
