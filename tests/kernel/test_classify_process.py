"""``podlane classify`` as a process: in a pipe, at a terminal, under Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw
from scapy.utils import RawPcapWriter

CLASSIFY = (sys.executable, "-m", "podlane", "classify", "--policy", "policy.yaml")
RAW_IP = 101
"""LINKTYPE_RAW: packets begin with their IP header (https://www.tcpdump.org/linktypes.html)."""
DATAGRAMS = 2000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has a policy and a capture: an HTTP request, and datagrams that are a flow each."""
    (tmp_path / "policy.yaml").write_text(
        "{total: 10Mbit, classes: [{name: web, rate: 1Mbit, match: {host: b.example.com}}]}"
    )
    ends = {"src": "10.0.0.2", "dst": "10.0.0.1"}
    request = b"GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n"
    with RawPcapWriter(str(tmp_path / "capture.pcap"), linktype=RAW_IP) as writer:
        writer.write(bytes(IP(**ends) / TCP(sport=40_000, dport=80, flags="S", seq=1)))
        writer.write(bytes(IP(**ends) / TCP(sport=40_000, dport=80, flags="PA", seq=2) / Raw(request)))
        datagram = bytes(IP(**ends) / UDP(dport=53))
        for port in range(1, DATAGRAMS + 1):
            writer.write(datagram[:20] + port.to_bytes(2) + datagram[22:])
    return tmp_path


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    command = [*CLASSIFY, "--json", "capture.pcap"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_terminal_gets_a_progress_bar_and_nobody_else(folder: Path) -> None:
    command = [*CLASSIFY, "--summary", "capture.pcap"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    plain = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=True)
    assert "reading" not in plain.stderr
    reader, writer = pty.openpty()
    try:
        done = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=writer, text=True, env=environment, check=True
        )
        shown = os.read(reader, 65536).decode()
    finally:
        os.close(reader)
        os.close(writer)
    assert "reading" in shown
    assert "packets/s" in shown
    assert done.stdout == plain.stdout


def test_ctrl_c_ends_reading_and_shows_what_there_was(folder: Path) -> None:
    """As in ``tcpdump -w - | podlane classify``: the pipe stays open, the signal comes."""
    command = [*CLASSIFY, "--json", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        # More than the pipe holds: when this returns, the program is reading packets.
        process.stdin.write((folder / "capture.pcap").read_bytes())
        process.stdin.flush()
        process.send_signal(2)
        output, errors = process.communicate()
    assert process.returncode == 130
    assert json.loads(output.splitlines()[0])["host"] == "b.example.com"
    assert b"Traceback" not in errors
