"""The access log: its lines, the thread that writes them, and how long bytes waited."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from proxy_harness import bench, read_to_end
from waiting import until

from datapath.protocols.detect import Detection, Protocol, Reason
from datapath.routing.flow import Destination
from sidecar.observability import access_log
from sidecar.observability.access_log import AccessLog, AccessLogSettings
from sidecar.observability.access_log_format import connection_line, decision_line
from sidecar.transport.observer import ConnectionOutcome, ConnectionSummary
from traffic_policy.errors import ConfigError
from traffic_policy.policy import Bound

NOW = 1_795_617_000.25
"""2026-11-25, 14:30:00.25."""
SERVER = Destination.parse("203.0.113.7", 443)


def ended(
    detection: Detection,
    *,
    destination: Destination = SERVER,
    outcome: ConnectionOutcome = ConnectionOutcome.COMPLETE,
    port: int = 40000,
    class_name: str = "api",
) -> dict[str, Any]:
    summary = ConnectionSummary(
        ("10.0.0.1", port), destination, class_name, detection, 517, 4000, 1.5, outcome, 0, 0, 0.25
    )
    line = connection_line(summary, NOW)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    document: dict[str, Any] = json.loads(line)
    return document


def test_a_tls_connection() -> None:
    client = {"address": "10.0.0.1", "ip": "10.0.0.1", "port": 40000}
    assert ended(Detection(Protocol.TLS, Reason.FOUND, sni="api.example.com")) == {
        "@timestamp": "2026-11-25T14:30:00.250000Z",
        "ecs": {"version": "8.17.0"},
        "event": {
            "kind": "event",
            "category": ["network"],
            "dataset": "podlane.access",
            "type": ["connection", "end"],
            "start": "2026-11-25T14:29:58.750000Z",
            "end": "2026-11-25T14:30:00.250000Z",
            "duration": 1_500_000_000,
            "outcome": "success",
        },
        "client": client,
        "source": {**client, "bytes": 517},
        "destination": {
            "address": "203.0.113.7",
            "ip": "203.0.113.7",
            "port": 443,
            "domain": "api.example.com",
            "bytes": 4000,
        },
        "network": {"transport": "tcp", "type": "ipv4", "direction": "egress", "protocol": "tls", "bytes": 4517},
        "tls": {"client": {"server_name": "api.example.com"}},
        "podlane": {"class": "api", "protocol": "tls", "throttled": 250_000_000},
    }


def test_what_differs_from_connection_to_connection_is_not_remembered() -> None:
    detection = Detection(Protocol.HTTP2, Reason.FOUND, host="api.example.com")
    assert [ended(detection, port=port)["client"]["port"] for port in (1, 2, 65535)] == [1, 2, 65535]
    other = ended(detection, class_name="other")
    assert (other["podlane"]["class"], other["url"]["domain"]) == ("other", "api.example.com")
    assert other["network"]["protocol"] == "http"


@pytest.mark.parametrize("outcome", [each for each in ConnectionOutcome if each is not ConnectionOutcome.COMPLETE])
def test_every_other_end_is_a_failure_with_its_reason(outcome: ConnectionOutcome) -> None:
    event = ended(Detection(Protocol.OPAQUE, Reason.TIMEOUT), outcome=outcome)["event"]
    assert (event["outcome"], event["reason"]) == ("failure", outcome.value)


def test_what_is_not_known_is_left_out() -> None:
    line = ended(
        Detection(Protocol.OPAQUE, Reason.NOT_THIS),
        destination=Destination.parse("2001:db8::1", 25, bound=Bound.INBOUND),
    )
    assert line["network"] == {"transport": "tcp", "type": "ipv6", "direction": "ingress", "bytes": 4517}
    assert not {"tls", "url"} & line.keys()
    assert "domain" not in line["destination"]


@pytest.mark.parametrize("name", ['"{time}"', "\\", "%s", "{0}", "Ünïcode", "time", "\u2028"])
def test_no_name_can_break_a_line(name: str) -> None:
    assert ended(Detection(Protocol.HTTP1, Reason.FOUND, host=name), class_name=name)["url"]["domain"] == name


def test_a_connection_that_was_stepped_aside_from_has_only_begun() -> None:
    detection = Detection(Protocol.TLS, Reason.FOUND, sni="api.example.com")
    line = json.loads(decision_line(("10.0.0.1", 7), SERVER, "api", detection, NOW))
    assert line["event"]["type"] == ["connection", "start"]
    assert line["event"]["start"] == line["@timestamp"] == "2026-11-25T14:30:00.250000Z"
    assert line["podlane"] == {"class": "api", "protocol": "tls"}
    assert line["source"] == line["client"] == {"address": "10.0.0.1", "ip": "10.0.0.1", "port": 7}


def fields(document: dict[str, Any], prefix: str = "") -> set[str]:
    """The dotted names of all values."""
    return {
        name
        for key, value in document.items()
        for name in (fields(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key})
    }


def test_the_docs_name_every_field_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs/reference/access-log.md").read_text()
    table = text[text.index("| field | meaning |") :].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([@a-z_.]+)`", row.split("|")[1])}
    written = fields(ended(Detection(Protocol.TLS, Reason.FOUND, sni="a"), outcome=ConnectionOutcome.IDLE))
    written |= fields(ended(Detection(Protocol.HTTP1, Reason.FOUND, host="a")))
    constant = {"ecs.version", "event.kind", "event.category", "event.type", "event.dataset"}
    assert named == written - constant


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_was_written_is_there_at_the_end_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    path.chmod(0o604)
    log = AccessLog(AccessLogSettings(path))
    lines = [b"%d %s\n" % (number, b"x" * (number % 900)) for number in range(2000)]
    for line in lines:
        log.write(line)
    log.close()
    assert path.read_bytes() == b"before\n" + b"".join(lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_pieces_fit_into_a_pipe_whole() -> None:
    log = AccessLog(AccessLogSettings(Path("/dev/null")))
    log.close()
    for number in range(300):
        log._lines.append(b"%d" % number + b"y" * 700 + b"\n")
    pieces = list(log._pieces())
    assert all(len(piece) <= 4096 and piece.endswith(b"\n") for piece, _ in pieces)
    assert sum(count for _, count in pieces) == 300
    assert b"".join(piece for piece, _ in pieces).count(b"\n") == 300


def test_a_reader_that_stalls_costs_lines_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MOST_WAITING", 50)
    monkeypatch.setattr(access_log, "_LAST_WORDS_S", 0.05)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    lost: list[int] = []
    log = AccessLog(AccessLogSettings(fifo), lost.append)
    line = b"z" * 4000 + b"\n"
    while not lost:  # a pipe holds 16 of them
        log.write(line)
    log.close()
    os.set_blocking(reader, True)
    assert os.read(reader, len(line)) == line, "what was there goes on when it is read"
    os.close(reader)
    log._thread.join(10)  # it says that nobody reads any more, which the next test must not hear


def test_a_place_that_fails_is_told_once_and_lines_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lost: list[int] = []
    log = AccessLog(AccessLogSettings(Path("/dev/full")), lost.append)
    for number in range(3):
        log.write(b"x\n")
        until("it to be lost", lambda n=number: sum(lost) == n + 1)
    log.close()
    assert capsys.readouterr().err.count("the access log cannot be written") == 1


@pytest.mark.parametrize(
    ("path", "words"),
    [("/nowhere/log", "No such file or directory"), ("/", "Is a directory"), ("fifo", "No such device or address")],
    ids=["no folder", "a folder", "a FIFO without a reader"],
)
def test_where_nothing_can_be_written_is_said(tmp_path: Path, path: str, words: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=rf"^--access-log-file: .* cannot be written: {words}"):
        AccessLogSettings(tmp_path / path).check()


# --- through the relay -----------------------------------------------------------------------------------------------


def test_the_relay_logs_what_it_tells_its_observer(tmp_path: Path) -> None:
    path = tmp_path / "log"
    hello = b"GET / HTTP/1.1\r\nHost: named.example\r\n\r\n"
    with bench(access_log=AccessLogSettings(path)) as b:
        client, server = b.pair(hello)
        server.sendall(b"answer")
        server.close()
        assert read_to_end(client) == b"answer"
        client.close()
        summary = b.recorder.closed_one()
    [line] = [json.loads(text) for text in path.read_text().splitlines()]
    assert line["podlane"]["class"] == summary.class_name == "named"
    assert (line["source"]["bytes"], line["destination"]["bytes"]) == (len(hello), 6)
    assert line["event"]["duration"] == round(summary.seconds * 1e9)
    assert line["podlane"]["throttled"] == 0 == summary.waited


@pytest.mark.parametrize("size", [3_000_000, 12_000_000], ids=["some", "much"])
def test_bytes_that_wait_for_the_server_are_timed(tmp_path: Path, size: int) -> None:
    with bench(access_log=AccessLogSettings(tmp_path / "log")) as b:
        client, server = b.pair()
        sender = threading.Thread(target=client.sendall, args=(bytes(size),))
        sender.start()
        [connection] = b.proxy.server._context.live
        until("a full socket", lambda: connection.pair is not None and connection.pair.up.full_since)
        until("some time", lambda: connection.pair.up.waited() > 0.05)
        received = 0
        while received < size:
            received += len(server.recv(1 << 20))
        sender.join()
        client.close()
        server.close()
        summary = b.recorder.closed_one()
    assert 0.05 < summary.waited < summary.seconds


def test_without_a_log_nothing_is_written() -> None:
    with bench() as b:
        client, server = b.pair()
        client.close()
        server.close()
        assert b.recorder.closed_one().waited == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "access-log"]
