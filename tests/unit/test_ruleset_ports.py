"""The list of reserved ports, on files that stand for /proc/sys (the kernel's own are tried in tests/kernel)."""

from __future__ import annotations

from pathlib import Path

import pytest

from datapath.netfilter.ports import PortReservation, release, reserve


@pytest.fixture
def sysctl(tmp_path: Path) -> Path:
    (tmp_path / "ip_local_port_range").write_text("10000\t60999\n")
    (tmp_path / "ip_local_reserved_ports").write_text("\n")
    return tmp_path


def reserved(sysctl: Path) -> str:
    return (sysctl / "ip_local_reserved_ports").read_text().strip()


@pytest.mark.parametrize(
    ("before", "ports", "between", "added"),
    [
        ("", [15101], "15101", (15101,)),
        ("15100", [15101, 15109], "15100-15101,15109", (15101, 15109)),
        ("15000-15200", [15101], "15000-15200", ()),
        ("8080", [80, 61000], "8080", ()),
    ],
    ids=["empty list", "beside another's", "reserved already", "outside the range"],
)
def test_only_what_was_added_is_taken_back(
    sysctl: Path, before: str, ports: list[int], between: str, added: tuple[int, ...]
) -> None:
    (sysctl / "ip_local_reserved_ports").write_text(before + "\n")
    reservation = reserve(ports, sysctl)
    assert reservation == PortReservation(added)
    assert reserved(sysctl) == between
    release(reservation, sysctl)
    release(reservation, sysctl)
    assert reserved(sysctl) == before


def test_what_others_add_meanwhile_stays(sysctl: Path) -> None:
    reservation = reserve([15101], sysctl)
    (sysctl / "ip_local_reserved_ports").write_text("15000-15200\n")
    release(reservation, sysctl)
    assert reserved(sysctl) == "15000-15100,15102-15200"


def test_where_it_cannot_be_set_the_warning_says_what_to_set(tmp_path: Path) -> None:
    reservation = reserve([15101], tmp_path / "nothing")
    assert reservation.added == ()
    assert reservation.warning is not None
    assert "net.ipv4.ip_local_reserved_ports=15101" in reservation.warning
