"""Trees as commands, for people and for the shell. Golden: a change of these texts is a change of what people read."""

from __future__ import annotations

import pytest
from trees import CLASSIC_FIFO, VARIANTS, policy, tree_of

from tc_core.model import tc_rate
from tc_core.probe.capability import Features
from tc_core.render import tc_commands
from traffic_policy.units import Rate


def test_a_stock_kernel() -> None:
    written = policy("100Mbit", api="20Mbit 80Mbit 1", backup="1Mbit 10Mbit 7")
    assert tc_commands(tree_of(written), "eth0") == [
        "# HTB at the root; what no filter selects goes to 1:1ff. r2q is not used.",
        "tc qdisc add dev eth0 root handle 1: htb default 1ff r2q 10 direct_qlen 1000",
        "# total: 100 Mbit/s for all classes together",
        "tc class add dev eth0 parent 1: classid 1:1 htb rate 100Mbit ceil 100Mbit burst 65536b cburst 65536b quantum 125000",
        "# class default: 1 Mbit/s guaranteed, at most 100 Mbit/s, priority 7",
        "tc class add dev eth0 parent 1:1 classid 1:1ff htb rate 1Mbit ceil 100Mbit burst 3028b cburst 65536b quantum 1514 prio 7",
        "tc qdisc add dev eth0 parent 1:1ff handle 1ff: fq_codel limit 10240 flows 256 target 5000us interval 100000us quantum 1514 memory_limit 6250000b ecn",
        "# class api: 20 Mbit/s guaranteed, at most 80 Mbit/s, priority 1",
        "tc class add dev eth0 parent 1:1 classid 1:101 htb rate 20Mbit ceil 80Mbit burst 50000b cburst 65536b quantum 25000 prio 1",
        "tc qdisc add dev eth0 parent 1:101 handle 101: fq_codel limit 10240 flows 256 target 5000us interval 100000us quantum 1514 memory_limit 5000000b ecn",
        "# class backup: 1 Mbit/s guaranteed, at most 10 Mbit/s, priority 7",
        "tc class add dev eth0 parent 1:1 classid 1:102 htb rate 1Mbit ceil 10Mbit burst 3028b cburst 25000b quantum 1514 prio 7",
        "tc qdisc add dev eth0 parent 1:102 handle 102: fq_codel limit 10240 flows 256 target 5000us interval 100000us quantum 1514 memory_limit 1048576b ecn",
        "# mark 0x1000000/0xff000000: api",
        "tc filter add dev eth0 parent 1: protocol all prio 1 handle 0x1000000/0xff000000 fw classid 1:101",
        "# mark 0x2000000/0xff000000: backup",
        "tc filter add dev eth0 parent 1: protocol all prio 1 handle 0x2000000/0xff000000 fw classid 1:102",
    ]


def test_programs_are_written_as_classic_bpf() -> None:
    lines = tc_commands(tree_of(policy(a="1Mbit"), CLASSIC_FIFO), "veth1")
    at = next(i for i, line in enumerate(lines) if line.startswith("tc filter"))
    assert "(as classic BPF)" in lines[at - 1]
    assert lines[at].startswith(
        "tc filter add dev veth1 parent 1: protocol all prio 2 handle 0x1 bpf bytecode '36,32 0 0 4294963220,"
    )
    assert lines[-1] == "ip link set dev veth1 gso_max_size 16384"


@pytest.mark.parametrize("features", VARIANTS.values(), ids=VARIANTS)
def test_every_line_is_a_comment_or_a_command_on_the_interface(features: Features) -> None:
    for line in tc_commands(tree_of(policy(a="1Mbit", b="2Mbit"), features), "eth9"):
        assert line.startswith("# ") or " dev eth9" in line


@pytest.mark.parametrize(
    ("bits", "text"),
    [(8_000, "8kbit"), (1_500_000, "1500kbit"), (10**9, "1Gbit"), (1_234_568, "1234568bit"), (0, "0bit")],
    ids=["kbit", "no fractions", "Gbit", "bit", "nothing"],
)
def test_rates_for_tc_have_no_fractions(bits: int, text: str) -> None:
    assert tc_rate(Rate(bits)) == text
