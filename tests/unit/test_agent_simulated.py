"""Simulated agents: their tokens, their tally, and that they are agents to a real server of gRPC."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fleet_server import FleetCa, fleet_server
from waiting import until

from fleet_api.agent_pb2 import FromAgent, ToAgent
from fleet_api.desired import DesiredState, FleetPolicy, message_of
from node_agent.simulated.joining import tokens_for
from node_agent.simulated.tally import RevisionTally
from traffic_policy.errors import ConfigError


def test_each_has_a_token() -> None:
    assert tokens_for("a\n\n b \nc", 2) == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="There are 1 join tokens for 2 agents"):
        tokens_for("a\n", 2)


def test_times_count_from_when_the_first_was_told() -> None:
    tally = RevisionTally()
    assert tally.line(0, 3) == "connected 0/3  revision 0  applied 0"
    tally.told(7, 10.0)
    for number in range(100):
        tally.told(7, 10.0 + number)
        tally.applied(7, 10.0 + number / 100)
    tally.applied(6, 99.0)
    assert tally.line(3, 3) == "connected 3/3  revision 7  applied 100  p50 0.500 s  p99 0.990 s"
    tally.told(8, 30.0)
    assert tally.count == 0


def test_they_join_and_apply_and_come_again(tmp_path: Path) -> None:
    ca, count = FleetCa(), 5
    (tmp_path / "tokens").write_text("".join(f"t{i}.{ca.digest}\n" for i in range(count)))
    first = DesiredState(3, {"p": FleetPolicy("p", 1, json.dumps({"total": "1Mbit"}), {})})
    second = DesiredState(4, {"p": FleetPolicy("p", 2, json.dumps({"total": "2Mbit"}), {})})
    heard: queue.Queue[FromAgent] = queue.Queue()

    def talk(messages, _context):  # type: ignore[no-untyped-def]
        for message in messages:
            heard.put(message)
            if message.hello.instance:
                yield ToAgent(desired=message_of(first))
                yield ToAgent(desired=message_of(second, first))

    command = [
        sys.executable, "-m", "podlane", "agent", "--simulate", str(count), "--join-token", f"@{tmp_path}/tokens",
        "--data", str(tmp_path / "data"), "--control-plane",
    ]  # fmt: skip
    for again in (False, True):
        with fleet_server(ca.ca, talk=talk, enrol=ca.enrol, mutual=False) as server:
            log = (tmp_path / "log").open("w")
            process = subprocess.Popen([*command, f"127.0.0.1:{server.port}"], stdout=log, stderr=subprocess.STDOUT)
            try:
                told = until(
                    "the answers",
                    lambda: (
                        "revision 4  applied 5" in (tmp_path / "log").read_text() and (tmp_path / "log").read_text()
                    ),
                )
                reported = until("a report of lanes", lambda: next((m for m in _all(heard) if m.report.lanes), None))
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                log.close()
        assert "connected 5/5" in told
        assert {each.policy for each in reported.report.lanes} == {"p"}
        assert len(ca.asked) == count, "certificates are kept"
        assert {each.node for each in ca.asked} == {f"simulated-{i:05}" for i in range(1, count + 1)}
        assert again or sorted(each.join_token for each in ca.asked) == [f"t{i}" for i in range(count)]


def _all(heard: queue.Queue[FromAgent]) -> list[FromAgent]:
    return [heard.get_nowait() for _ in range(heard.qsize())]
