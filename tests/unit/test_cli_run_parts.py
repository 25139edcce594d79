"""The pure parts of ``podlane run``: networks, host rules, resolver, delivery, summary, records."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.documents.classes import Classes
from daemon.documents.codec import from_json
from podlane.errors import RunError
from podlane.run.addresses import IPv4_POOL, IPv6_POOL, Networks, free_networks
from podlane.run.nat import HostRules, removal_text
from podlane.run.resolver import choose_resolver
from podlane.run.state import RunRecord, RunState, locked_state, process_start
from podlane.run.summary import summary_lines
from podlane.run.supervise import unsent_bytes

# --- networks ---------------------------------------------------------------------------------------------------------


@given(start=st.integers(0, 4_194_304), taken=st.lists(st.integers(0, 16383), max_size=5))
def test_free_networks_lie_in_the_pools_and_overlap_nothing_in_use(start: int, taken: list[int]) -> None:
    in_use = [Networks.number(index).ipv4 for index in taken] + [Networks.number(index).ipv6 for index in taken]
    found = free_networks(in_use, start)
    assert found.ipv4.subnet_of(IPv4_POOL)
    assert found.ipv6.subnet_of(IPv6_POOL)
    assert found.ipv4.prefixlen == 30
    assert not any(found.ipv4.overlaps(n) for n in in_use if n.version == 4)
    assert not any(found.ipv6.overlaps(n) for n in in_use if n.version == 6)


def test_a_default_route_is_no_network_in_use() -> None:
    assert free_networks([ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")], 7) == Networks.number(7)


def test_a_pool_that_is_routed_elsewhere_is_an_error_with_a_remedy() -> None:
    with pytest.raises(RunError, match=r"198\.19\.0\.0/16 is in use.*Remove a route"):
        free_networks([ipaddress.ip_network("198.18.0.0/15")], 0)


# --- host rules -------------------------------------------------------------------------------------------------------

RULES = HostRules("podlane-7", ipaddress.IPv4Network("198.19.0.0/30"), "pl7")
SAVED = """\
*filter
:FORWARD DROP [0:0]
-A FORWARD -i pl7 -m comment --comment podlane-7 -j ACCEPT
-A FORWARD -i pl77 -m comment --comment podlane-77 -j ACCEPT
-A FORWARD -i docker0 -m comment --comment "podlane-7 is not mine" -j ACCEPT
-A FORWARD -o pl7 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "podlane-7" -j ACCEPT
-A FORWARD -j LOG --log-prefix "--comment podlane-7"
COMMIT
"""


def test_every_host_rule_carries_the_tag_and_goes_to_the_head_of_its_chain() -> None:
    inserts = [line for line in RULES.restore_text().splitlines() if line.startswith("-")]
    assert len(inserts) == 3
    assert all("--comment podlane-7 " in line for line in inserts)
    assert [line.split()[:3] for line in inserts] == [["-I", "POSTROUTING", "1"]] + 2 * [["-I", "FORWARD", "1"]]


def test_removal_takes_exactly_the_tagged_rules() -> None:
    assert removal_text("filter", SAVED, "podlane-7") == (
        "*filter\n"
        "-D FORWARD -i pl7 -m comment --comment podlane-7 -j ACCEPT\n"
        '-D FORWARD -o pl7 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "podlane-7" -j ACCEPT\n'
        "COMMIT\n"
    )
    assert removal_text("filter", SAVED, "podlane-9") is None


# --- resolver ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "uplink", "replaced", "warned"),
    [
        ("nameserver 192.0.2.1\n", None, False, False),
        ("nameserver 127.0.0.1\nnameserver 2001:db8::1\n", None, False, False),
        ("nameserver fe80::1%eth0\n", None, False, False),
        ("nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.1\n", True, False),
        ("nameserver 127.0.0.53\n", "# none yet\n", False, True),
        ("nameserver 127.0.0.1\n", None, False, True),
        ("nameserver ::1\n", None, False, True),
        ("search example.com\n", None, False, True),
        (None, None, False, True),
        (None, "nameserver 192.0.2.1\n", False, True),
    ],
    ids=[
        "a usable one", "one of two", "scoped", "systemd-resolved", "systemd-resolved offline", "dnsmasq", "IPv6 loopback",
        "no server", "no file", "no file to replace",
    ],
)  # fmt: skip
def test_resolver(tmp_path: Path, host: str | None, uplink: str | None, replaced: bool, warned: bool) -> None:
    paths = tmp_path / "resolv.conf", tmp_path / "uplink"
    for path, text in zip(paths, (host, uplink), strict=True):
        if text is not None:
            path.write_text(text)
    chosen = choose_resolver(*paths)
    assert chosen.replacement == (paths[1] if replaced else None)
    assert (chosen.warning is not None) == warned


# --- delivery ---------------------------------------------------------------------------------------------------------


def test_unsent_bytes_are_those_of_all_but_listeners() -> None:
    table = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000080:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1F90 0100007F:C350 01 00000010:00000000 01:00000014 00000000     0        0 2
   2: 0100007F:C350 0100007F:1F90 04 00000100:00000005 01:00000014 00000000     0        0 0
"""
    assert unsent_bytes(table) == 0x110
    assert unsent_bytes(table.splitlines()[0]) == 0


# --- summary ----------------------------------------------------------------------------------------------------------


LIMITS = {"rate_bits_per_second": 1_000_000, "ceil_bits_per_second": 10_000_000}
IDLE = dict.fromkeys(
    ("priority", "overlimits", "lended", "borrowed", "backlog_bytes", "backlog_packets", "current_rate_bits_per_second"), 0
)  # fmt: skip


def _class(name: str, count: int, peak: int = 0, *, connects: bool = True) -> dict[str, object]:
    connections = {"active": 0, "total": 3, "by_protocol": {"tls": 2, "http1": 1, "http2": 0}}
    return {
        "name": name,
        "id": 1,
        "handle": "1:101",
        **LIMITS,
        **IDLE,
        "bytes": count,
        "packets": count // 1000,
        "drops": 2,
        "peak_rate_bits_per_second": peak,
        **({"connections": connections} if connects else {}),
    }


def _document(*classes: dict[str, object], received: dict[str, object] | None = None) -> Classes:
    arriving = received and {"device": "ifb", "names_told_by": None, "total_bits_per_second": 1, "classes": [received]}
    head = {"interface": "eth0", "total_bits_per_second": 1, "datapath": "relay", "workers": 1, "uptime_seconds": 1.0}
    return from_json(Classes, {**head, "read_at_seconds": 1.0, "classes": [*classes], "received": arriving})


def test_the_summary_has_one_aligned_line_per_class() -> None:
    document = _document(_class("api", 1_250_000, 2_500_000), _class("default", 0))
    assert summary_lines(document, 5.0) == [
        "class    guaranteed    ceiling     sent     average        peak  packets  drops  connections",
        "api        1 Mbit/s  10 Mbit/s  1.2 MiB  2.0 Mbit/s  2.5 Mbit/s     1250      2  3 (2 tls, 1 http1)",
        "default    1 Mbit/s  10 Mbit/s      0 B     0 bit/s     0 bit/s        0      2  3 (2 tls, 1 http1)",
    ]


def test_what_was_received_follows_if_it_is_limited() -> None:
    api, web = _class("api", 1_250_000, 2_500_000), _class("web", 2_500_000, 5_000_000, connects=False)
    assert summary_lines(_document(api, received=web), 5.0)[2:] == [
        "class  guaranteed    ceiling  received     average        peak  packets  drops",
        "web      1 Mbit/s  10 Mbit/s   2.4 MiB  4.0 Mbit/s  5.0 Mbit/s     2500      2",
    ]
    assert len(summary_lines(_document(api), 5.0)) == 2


def test_of_many_classes_only_those_that_sent_are_listed() -> None:
    document = _document(*(_class(f"c{n}", 5000 if n == 7 else 0) for n in range(30)))
    lines = summary_lines(document, 1.0)
    assert [line.split()[0] for line in lines] == ["class", "c7", "29"]
    assert lines[-1] == "29 more sent nothing"


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_run_is_alive_while_its_process_with_its_start_time_is() -> None:
    started = process_start(os.getpid())
    assert started is not None
    assert _record(os.getpid(), started).alive
    assert not _record(os.getpid(), started + 1).alive
    assert process_start(2**22 + 1) is None


def test_records_are_found_again_and_the_folder_goes_with_the_last(tmp_path: Path) -> None:
    root = tmp_path / "podlane"
    record = _record(1, 2)
    with locked_state(root) as state:
        state.write(record)
    with locked_state(root) as state:
        assert state.runs() == [record]
        state.forget(record)
    assert not root.exists()


def test_a_setting_is_put_back_with_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "ip_forward"
    setting.write_text("0\n")
    monkeypatch.setattr("podlane.run.state.sysctl_path", lambda _key: setting)
    state = RunState(tmp_path / "net")
    first, second = _record(1, 1), _record(2, 2)
    for record in (first, second):
        state.write(record)
        state.set_setting("net.ipv4.ip_forward", "1")
    state.forget(first)
    assert setting.read_text() == "1"
    state.forget(second)
    assert setting.read_text() == "0"


@pytest.mark.parametrize("boot", ["another boot", None], ids=["from before a reboot", "changed by somebody else"])
def test_a_setting_that_is_no_longer_ours_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str | None
) -> None:
    setting = tmp_path / "ip_forward"
    setting.write_text("0\n")
    monkeypatch.setattr("podlane.run.state.sysctl_path", lambda _key: setting)
    state, record = RunState(tmp_path / "net"), _record(1, 1)
    state.write(record)
    state.set_setting("net.ipv4.ip_forward", "1")
    if boot:
        host = tmp_path / "net" / "host.json"
        host.write_text(host.read_text().replace(Path("/proc/sys/kernel/random/boot_id").read_text().strip(), boot))
    else:
        setting.write_text("2")
    state.forget(record)
    assert setting.read_text() == ("1" if boot else "2")


def _record(pid: int, started: int) -> RunRecord:
    return RunRecord(f"podlane-{pid}", pid, started, f"pl{pid}", "198.19.0.0/30", "fd4e:9a3c:71d2::/64")
