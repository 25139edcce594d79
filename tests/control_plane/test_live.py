"""``/v1/live`` by a real server and real WebSocket clients."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from fleet_bench import Agent, Bench, running_bench
from live_client import Binary, LiveServer, Viewer, live_server
from waiting import until
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from control_plane.access.gate import Users
from control_plane.access.provider import Grant, IdentityProvider, KnownUser, ProviderSettings
from control_plane.access.sessions import BrowserSessions
from control_plane.domain.access import Role
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.commands import (
    AddCluster,
    CreateTenant,
    EnrolAgent,
    FireAlert,
    GrantGroup,
    IssueJoinToken,
    ResolveAlert,
    RetitleTenant,
    RevokeGrant,
    RevokeToken,
    SetAlertRule,
)
from control_plane.gateway.rpc import GrpcStatus
from control_plane.live.rows import (
    LiveAgent,
    LiveAgentTotals,
    LiveAlert,
    LiveAlertTotals,
    LiveCluster,
    LiveLane,
    LiveLaneTotals,
    LivePolicy,
    LiveWorkload,
    LiveWorkloadLane,
    LiveWorkloadTotals,
)
from control_plane.service import Circumstances, ControlPlane
from fleet_api.agent_pb2 import Health, LaneSum, Report, WorkloadFigures


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


@pytest.fixture
def server(bench: Bench) -> Iterator[LiveServer]:
    with live_server(bench) as server:
        yield server


def enrolled(bench: Bench, node: str, cluster: str = "east") -> None:
    bench.do(IssueJoinToken(cluster, node, "d" * 64, int(bench.clock[0]) + 60))
    bench.do(EnrolAgent(cluster, node, node, "d" * 64, "1f"))


def connected(bench: Bench, node: str) -> Agent:
    agent = bench.agent(node).hello()
    bench.until(f"{node} is let in", lambda: bench.state(node) != "away")
    return agent


def reporting(agent: Agent, size: int, lane: str = "web", direction: str = "egress") -> None:
    sums = LaneSum(policy="web", lane=lane, direction=direction, bytes=size, packets=3, overlimits=1, workloads=2)
    agent.say(report=Report(interval_ms=1000, lanes=[sums]))


def nodes(window: dict) -> list[str]:
    return [each["node"] for each in window["rows"]]


def test_a_window_is_filtered_sorted_and_cut_and_moved(bench: Bench, server: LiveServer) -> None:
    bench.do(AddCluster("west"))
    enrolled(bench, "w1", "west")
    for number in range(1, 6):
        enrolled(bench, f"n{number}")
    agents = [connected(bench, f"m{number}") for number in range(3)]
    for number, agent in enumerate(agents):
        reporting(agent, 1000 * (number + 1))
        agent.say(health=Health(workloads=number, memory_bytes=9))
    with server.viewer() as viewer:
        viewer.subscribe(1, "agents", limit=2)
        first = viewer.next("window")
        assert (first["total"], nodes(first), first["offset"]) == (9, ["m0", "m1"], 0)
        LiveAgent.model_validate(first["rows"][0])
        assert set(first["rows"][0]) == set(LiveAgent.model_fields)
        assert (
            first["totals"] | {"agents": 9, "away": 6, "in_sync": 3, "bytes": 6000, "workloads": 3} == first["totals"]
        )
        assert set(first["totals"]) == set(LiveAgentTotals.model_fields)
        viewer.subscribe(1, "agents", limit=2, offset=7)
        assert nodes(viewer.window(lambda w: w["offset"] == 7)) == ["n5", "w1"]
        viewer.subscribe(1, "agents", sort="-bytes", limit=3)
        assert nodes(viewer.window(lambda w: w["offset"] == 0)) == ["m2", "m1", "m0"]
        viewer.subscribe(2, "agents", scope={"cluster": "east"}, filter={"state": "away", "text": "n"})
        away = viewer.next("window", 2)
        assert nodes(away) == [f"n{number}" for number in range(1, 6)]
        assert (away["totals"]["agents"], away["totals"]["in_sync"]) == (8, 3)  # whatever the filter is
        viewer.subscribe(3, "clusters", sort="-agents")
        clusters = viewer.next("window", 3)["rows"]
        assert [(each["name"], each["agents"], each["bytes"]) for each in clusters] == [
            ("east", 8, 6000),
            ("west", 1, 0),
        ]
        assert set(clusters[0]) == set(LiveCluster.model_fields)
        agents[2].call.listener.closed()
        bench.clock[0] += 1
        assert viewer.window(lambda w: w["totals"]["away"] == 6, 2)["total"] == 5  # m2 is away, and filtered out


def test_what_is_decided_is_seen_at_once_and_by_its_position(bench: Bench, server: LiveServer) -> None:
    """The clock stands still: nothing but the news makes a frame."""
    agent = connected(bench, "n1")
    with bench.plane.reading("default") as tenant:
        before = tenant.position
    # Events have a viewer of their own: who waits for a window leaves out what comes before it.
    with server.viewer() as viewer, server.viewer() as listener:
        for id, topic in enumerate(("policies", "rollouts")):
            viewer.subscribe(id, topic)
        listener.subscribe(2, "events", after=before)
        assert viewer.next("window", 0)["total"] == viewer.next("window", 1)["total"] == 0
        bench.publish()
        seen = viewer.window(lambda w: w["total"], 0)
        assert seen["rows"][0]["name"] == "web"
        assert set(seen["rows"][0]) == set(LivePolicy.model_fields)
        heard = listener.next("events", 2)
        kinds = [each["kind"] for each in heard["events"]]
        while heard["cursor"] < before + 2:
            heard = listener.next("events", 2)
            kinds += [each["kind"] for each in heard["events"]]
        assert kinds == ["PolicyDrafted", "PolicyPublished"]
    bench.until("the policy", agent.take)
    agent.confirm()
    bench.clock[0] += 1
    with server.viewer() as viewer:
        viewer.subscribe(0, "policies")
        row = viewer.window(lambda w: w["rows"][0]["having"], 0)["rows"][0]
        assert (row["agents"], row["having"], row["behind"]) == (1, 1, 0)


def test_events_go_on_from_where_somebody_was_without_a_gap(bench: Bench, server: LiveServer) -> None:
    with bench.plane.reading("default") as tenant:
        start = tenant.position
    with server.viewer() as viewer:
        viewer.subscribe(1, "events", after=start)
        bench.do(RetitleTenant("0"))
        cursor = viewer.next("events")["cursor"]
    for number in range(1, 251):
        bench.do(RetitleTenant(str(number)))
    with server.viewer() as viewer:
        viewer.subscribe(1, "events", after=cursor)
        titles: list[str] = []
        bench.do(RetitleTenant("251"))
        while len(titles) < 251:
            titles += [each["data"]["title"] for each in viewer.next("events")["events"]]
        assert titles == [str(number) for number in range(1, 252)]
        viewer.subscribe(2, "events", after=10_000)
        assert viewer.next("problem", 2)["problem"]["status"] == 409


def test_series_come_as_columns_and_go_on_after_the_cursor(bench: Bench, server: LiveServer) -> None:
    bench.publish()
    agent = connected(bench, "n1")
    bench.until("the policy is known", lambda: bench.fleet.agents("default").figures.known)
    start = int(bench.clock[0])
    for second in range(5):
        reporting(agent, 100 + second)
        bench.clock[0] += 1
    wish = {"fields": ["bytes", "packets"], "seconds": 5}
    with server.viewer() as viewer:
        viewer.subscribe(1, "series", **wish)
        first = viewer.next("series")
        assert isinstance(first, Binary)
        assert (first.head["from"], first.head["seconds"], first.head["gap"]) == (start, 5, False)
        assert first.head["lanes"] == [["web", "web", "egress"]]
        assert first.values == [100, 101, 102, 103, 104, 3, 3, 3, 3, 3]
        cursor = first.head["cursor"]
    for second in range(3):
        reporting(agent, 200 + second)
        bench.clock[0] += 1
    with server.viewer() as viewer:
        viewer.subscribe(1, "series", after=cursor, **wish)
        again = viewer.next("series")
        assert (again.head["from"], again.head["gap"], again.values[:3]) == (cursor + 1, False, [200, 201, 202])
        reporting(agent, 300)
        bench.clock[0] += 1
        assert viewer.next("series").values[0] == 300
        bench.clock[0] += 1000
        viewer.subscribe(2, "series", after=cursor, scope={"cluster": "nowhere"})
        late = viewer.next("series", 2)
        assert late.head | {"gap": True, "seconds": 900, "lanes": []} == late.head
        viewer.subscribe(3, "series", scope={"cluster": "east", "direction": "ingress"})
        assert viewer.next("series", 3).values == []


def test_lanes_and_heat(bench: Bench, server: LiveServer) -> None:
    bench.publish()
    agents = [connected(bench, f"n{number}") for number in range(3)]
    bench.until("the policy is known", lambda: bench.fleet.agents("default").figures.known)
    for _ in range(3):
        for number, agent in enumerate(agents):
            reporting(agent, 1000 * number)
            reporting(agent, 30, direction="ingress")
        bench.clock[0] += 1
    with server.viewer() as viewer:
        viewer.subscribe(1, "lanes", sort="-bytes", scope={"cluster": "east"})
        window = viewer.next("window")
        assert [(each["direction"], each["bytes"]) for each in window["rows"]] == [("egress", 3000), ("ingress", 90)]
        assert set(window["rows"][0]) == set(LiveLane.model_fields)
        assert set(window["totals"]) == set(LiveLaneTotals.model_fields)
        assert (window["totals"]["egress"], window["totals"]["ingress"]) == (3000, 90)
        viewer.subscribe(2, "heat", fields=["state", "bytes"])
        heat = viewer.next("heat")
        assert heat.head["agents"] == [["east", "n0"], ["east", "n1"], ["east", "n2"]]
        assert heat.values == [1, 1, 1, 30, 30, 30]  # their last reports
        agents[0].call.listener.closed()
        bench.clock[0] += 1
        heat = viewer.next("heat")
        assert (heat.head["agents"], heat.values[:3]) == (None, [3, 1, 1])


def test_who_takes_frames_slowly_gets_the_newest_and_no_backlog(bench: Bench, server: LiveServer) -> None:
    for number in range(500):
        enrolled(bench, f"n{number}")
    with server.viewer() as fast, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        with connect(
            server.url, sock=slow, compression=None, max_queue=1, max_size=2**26,
            additional_headers={"Authorization": f"Bearer {server.token}"},
        ) as connection:  # fmt: skip
            late = Viewer(connection)
            for viewer in (fast, late):
                viewer.subscribe(1, "agents", limit=500)
                viewer.subscribe(2, "policies")
            for number in range(30):
                bench.do(RetitleTenant(str(number)))
                with bench.plane.reading("default") as tenant:
                    newest = tenant.position
                fast.window(lambda w, newest=newest: w["position"] == newest, 1)
            positions = []
            while not positions or positions[-1] < newest:
                positions.append(late.next("window", 1)["position"])
    # Each window is 150 kB: what both ends' buffers and the client's queue take, and the newest.
    assert len(positions) <= 8
    assert positions == sorted(positions)


def test_who_reads_nothing_keeps_nobody_from_anything(bench: Bench, server: LiveServer) -> None:
    """Also when it asks all the time, by messages and pings."""
    for number in range(200):
        enrolled(bench, f"n{number}")
    with server.viewer() as other, socket.create_connection(("127.0.0.1", server.port)) as mute:
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mute.sendall(
            f"GET /v1/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {server.token}\r\n\r\n".encode()
        )
        for id in range(30):
            mute.sendall(framed(1, subscription(id, "agents", limit=500)))
        until("both look", lambda: server.place.viewers == 2)
        mute.settimeout(0.5)
        pings = framed(9, b"x" * 125) * 100
        for _ in range(200):  # 2.6 MB of them; their pongs go nowhere
            mute.sendall(pings)
        other.subscribe(1, "agents", limit=1)
        for number in range(5):
            bench.do(RetitleTenant(f"after {number}"))
            with bench.plane.reading("default") as tenant:
                newest = tenant.position
            other.window(lambda w, newest=newest: w["position"] >= newest)


def subscription(id: int, topic: str, **content: object) -> bytes:
    return json.dumps({"type": "subscribe", "id": id, "tenant": "default", "topic": topic, **content}).encode()


def framed(opcode: int, content: bytes) -> bytes:
    """A client's frame (RFC 6455, section 5.2), masked with zeros."""
    size = bytes([0x80 | len(content)]) if len(content) < 126 else b"\xfe" + len(content).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + b"\0\0\0\0" + content


@pytest.mark.parametrize(
    ("message", "status", "told"),
    [
        ("{", 422, "Invalid JSON"),
        ("[" * 10_000, 422, "Invalid JSON"),
        ("null", 422, "wrong"),
        ('{"type": "subscribe"}', 422, "id"),
        ('{"type": "look", "id": 1}', 422, "look"),
        ('{"type": "login", "token": "x"}', 422, "already"),
        (subscription(1, "agents", sort="colour").decode(), 422, "sort"),
        (subscription(1, "agents", filter={"state": "gone"}).decode(), 422, "state"),
        (subscription(1, "agents", limit=501).decode(), 422, "limit"),
        (subscription(1, "agents", offset=-1).decode(), 422, "offset"),
        (subscription(1, "series", fields=["colour"]).decode(), 422, "fields"),
        (subscription(1, "heat", fields=["rate"]).decode(), 422, "fields"),
        (subscription(1, "agents", scope={"cluster": "x" * 300}).decode(), 422, "cluster"),
        (subscription(1, "agents", colour=1).decode(), 422, "colour"),
        ('{"type": "subscribe", "id": 1, "tenant": "nobody", "topic": "agents"}', 404, "nobody"),
        ('{"type": "subscribe", "id": 1, "tenant": "\\u0000", "topic": "agents"}', 404, "no tenant"),
        (b"{}", 400, "text"),
    ],
)
def test_a_wrong_message_is_told_and_harms_nothing(
    server: LiveServer, message: str | bytes, status: int, told: str
) -> None:
    with server.viewer() as viewer:
        viewer.connection.send(message)
        problem = viewer.next("problem")["problem"]
        assert (problem["status"], told in problem["detail"]) == (status, True), problem
        assert problem["remedy"]
        viewer.subscribe(7, "clusters")
        assert viewer.next("window", 7)["total"] == 1


def test_messages_that_are_huge_or_too_many_end_the_connection(server: LiveServer) -> None:
    with server.viewer() as huge:
        huge.connection.send("x" * 16_385)
        assert closed(huge) == 1009
    with server.viewer() as piecemeal, pytest.raises(ConnectionClosed):
        piecemeal.connection.send("x" * 100 for _ in range(100_000))
    with server.viewer() as flood:
        for _ in range(100):
            flood.connection.send(subscription(1, "clusters"))
        assert closed(flood) == 1008
    with server.viewer() as many:
        for id in range(33):
            many.subscribe(id, "clusters")
        assert many.next("problem", 32)["problem"]["status"] == 429


def closed(viewer: Viewer) -> int | None:
    """The code with which it is closed."""
    try:
        while True:
            viewer.hear()
    except ConnectionClosedError as ended:
        return ended.rcvd.code if ended.rcvd else None


def test_who_may_look(bench: Bench, server: LiveServer) -> None:
    bench.do(CreateTenant(), "other")
    token = server.new_token("default", Role.VIEWER)
    with server.viewer(token) as viewer:
        viewer.subscribe(1, "agents")
        viewer.next("window", 1)
        viewer.say("subscribe", id=2, tenant="other", topic="agents")
        assert viewer.next("problem", 2)["problem"]["status"] == 403
    server.recorder.flush()
    [noted] = bench.plane.store.refusals.read("other", 0, 100, bench.plane.now_ms)
    assert (noted.operation, noted.status, noted.known) == ("GET /v1/live", 403, True)
    with pytest.raises(InvalidStatus) as refused, server.viewer("podlane-default_0_0"):
        pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["type"] == "urn:podlane:problem:unauthenticated"


def test_a_page_logs_in_by_its_first_message(server: LiveServer) -> None:
    token = server.new_token()
    with connect(server.url, subprotocols=["podlane.live.v1"]) as connection:
        assert connection.subprotocol == "podlane.live.v1"
        viewer = Viewer(connection)
        viewer.say("login", token=token)
        assert viewer.next("welcome")["author"].startswith("default/")
        viewer.subscribe(1, "agents")
        viewer.next("window", 1)
    for first in ({"type": "login", "token": "nonsense"}, {"type": "unsubscribe", "id": 1}, {}):
        with connect(server.url) as connection:
            viewer = Viewer(connection)
            connection.send(json.dumps(first))
            assert viewer.next("problem")["problem"]["status"] in (401, 422)
            assert closed(viewer) == 1008


def test_a_token_that_is_revoked_or_expires_closes_its_connection(bench: Bench, server: LiveServer) -> None:
    token = server.new_token()
    with server.viewer(token) as viewer:
        viewer.subscribe(1, "agents")
        viewer.next("window", 1)
        bench.do(RevokeToken(token.split("_")[1]))
        assert viewer.next("problem")["problem"]["status"] == 401
        assert closed(viewer) == 1008
    until("it is forgotten", lambda: server.place.viewers == 0)


@pytest.fixture
def with_sessions(bench: Bench) -> Iterator[tuple[LiveServer, BrowserSessions]]:
    provider = IdentityProvider(ProviderSettings("http://127.0.0.1:1", "podlane", "podlane", "", "groups"))
    sessions = BrowserSessions(bench.store.sessions, provider, lambda: bench.clock[0])
    with live_server(bench, users=Users(provider, sessions, "https://podlane.example.com")) as server:
        yield server, sessions


def test_a_session_is_for_pages_of_ours_and_ends(
    bench: Bench, with_sessions: tuple[LiveServer, BrowserSessions]
) -> None:
    server, sessions = with_sessions
    bench.do(CreateTenant(), "shop")
    for tenant in ("default", "shop"):
        bench.do(GrantGroup("dev", Role.VIEWER), tenant)
    text = sessions.begin(KnownUser("ann", "Ann", ("dev",)), Grant("", 60))
    headers = {"Cookie": f"podlane-session={text}"}
    for origin in (None, "https://evil.example.com", "null"):
        with pytest.raises(InvalidStatus) as refused:
            connect(server.url, additional_headers=headers, origin=origin)
        assert refused.value.response.status_code == 403
    for origin in ("https://podlane.example.com", f"http://127.0.0.1:{server.port}"):
        with connect(server.url, additional_headers=headers, origin=origin) as connection:
            assert "Ann" in Viewer(connection).next("welcome")["author"]
    with connect(server.url, additional_headers=headers, origin="https://podlane.example.com") as connection:
        viewer = Viewer(connection)
        viewer.subscribe(1, "clusters")
        viewer.say("subscribe", id=2, tenant="shop", topic="policies")
        viewer.next("window", 2)
        bench.do(RevokeGrant("dev"), "shop")
        assert viewer.next("problem", 2)["problem"]["status"] == 403  # the other goes on
        bench.do(AddCluster("west"))
        viewer.window(lambda w: w["total"] == 2, 1)
        sessions.end(text)
        assert viewer.next("problem")["problem"]["status"] == 401
        assert closed(viewer) == 1008


def test_a_viewer_hears_that_all_is_quiet(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.live.place._ALIVE_S", 0.1)
    with server.viewer() as viewer:
        assert viewer.next("alive")["at"] == server.bench.clock[0]


def test_an_agent_tells_of_its_workloads_while_somebody_looks(bench: Bench, server: LiveServer) -> None:
    agent = connected(bench, "n1")
    reporting(agent, 1)
    assert [each.watch.others for each in agent.take()] == [False]  # nobody looks: it is told of names alone
    sums = [
        LaneSum(policy="web", lane=lane, direction="egress", bytes=2000, packets=2, backlog=9, rate=5, ceil=6)
        for lane in ("web", "default")
    ]
    report = Report(
        interval_ms=2000,
        workloads=[
            WorkloadFigures(workload="shop/web-1", lanes=sums, controller="Deployment/web"),
            WorkloadFigures(workload="shop/db-0", lanes=sums[:1]),
            WorkloadFigures(workload="other/x"),
        ],
    )
    scope = {"cluster": "east", "node": "n1"}
    with server.viewer() as viewer:
        viewer.subscribe(1, "workloads", scope={"cluster": "east"})
        assert viewer.next("problem", 1)["problem"]["status"] == 422
        viewer.subscribe(1, "workloads", scope=scope | {"namespace": "shop"}, sort="-bytes")
        assert viewer.next("window", 1)["total"] == 0
        agent.say(report=Report())
        assert [each.watch.others for each in agent.take()] == [True]
        agent.say(report=report)
        bench.clock[0] += 1
        window = viewer.window(lambda w: w["total"], 1)
        assert [(each["workload"], each["bytes"]) for each in window["rows"]] == [
            ("shop/web-1", 2000),
            ("shop/db-0", 1000),
        ]
        assert [each["controller"] for each in window["rows"]] == ["Deployment/web", ""]
        assert (
            window["rows"][0]["lanes"][0] | {"lane": "web", "bytes": 1000, "backlog": 9}
            == window["rows"][0]["lanes"][0]
        )
        assert set(window["rows"][0]) == set(LiveWorkload.model_fields)
        assert set(window["rows"][0]["lanes"][0]) == set(LiveWorkloadLane.model_fields)
        assert window["totals"]["bytes"] == 3000
        assert set(window["totals"]) == set(LiveWorkloadTotals.model_fields)
        assert agent.take() == []  # it was told once
    until("nobody looks", lambda: server.place.viewers == 0)
    bench.clock[0] += 10
    agent.say(report=report)
    assert [each.watch.others for each in agent.take()] == [False]
    assert bench.fleet.agents("default").agents["east", "n1"].details is None


def test_only_so_many_agents_are_asked_for_workloads(bench: Bench, server: LiveServer) -> None:
    bench.fleet.agents("default").watched.update({("east", str(n)): bench.clock[0] + 5 for n in range(64)})
    with server.viewer() as viewer:
        viewer.subscribe(1, "workloads", scope={"cluster": "east", "node": "n1"})
        assert viewer.next("problem", 1)["problem"]["status"] == 429
        bench.clock[0] += 6
        viewer.subscribe(1, "workloads", scope={"cluster": "east", "node": "n1"})
        assert viewer.next("window", 1)["total"] == 0


@pytest.mark.parametrize(
    "report",
    [
        Report(workloads=[WorkloadFigures(workload="x")] * 101),
        Report(workloads=[WorkloadFigures(workload="x" * 500)]),
        Report(workloads=[WorkloadFigures(workload="x", controller="x" * 500)]),
        Report(workloads=[WorkloadFigures(workload="x", lanes=[LaneSum(lane="\0")])]),
        Report(workloads=[WorkloadFigures(workload="x", lanes=[LaneSum(direction="up")])]),
        Report(workloads=[WorkloadFigures(workload="x", lanes=[LaneSum(direction="egress")] * 1500)] * 2),
    ],
)
def test_an_agent_that_tells_nonsense_of_workloads_is_refused(bench: Bench, report: Report) -> None:
    agent = connected(bench, "n1")
    agent.say(report=report)
    assert agent.call.ended is not None
    assert agent.call.ended[0] == GrpcStatus.INVALID_ARGUMENT
    assert bench.fleet.agents("default").agents["east", "n1"].details is None


def test_alerts_are_seen_when_they_fire_and_are_over(bench: Bench, server: LiveServer) -> None:
    bench.do(SetAlertRule("slow", AlertRule(AlertKind.THROTTLED, 0.5)))
    now = int(bench.clock[0])
    with server.viewer() as viewer:
        viewer.subscribe(1, "alerts", filter={"state": "firing", "text": "web"})
        assert viewer.next("window")["totals"]["firing"] == 0
        for id, severity, policy in (("a1", "warning", "web"), ("a2", "critical", "other")):
            labels = {"severity": severity, "policy": policy}
            bench.do(FireAlert("slow", id, labels, {"summary": "slow"}, 0.7, now - 5))
        window = viewer.window(lambda w: w["totals"]["firing"] == 2)
        assert [(each["id"], each["severity"], each["value"]) for each in window["rows"]] == [("a1", "warning", 0.7)]
        assert set(window["rows"][0]) == set(LiveAlert.model_fields)
        assert set(window["totals"]) == set(LiveAlertTotals.model_fields)
        assert (window["totals"]["warning"], window["totals"]["critical"]) == (1, 1)
        bench.do(ResolveAlert("slow", "a1"))
        window = viewer.window(lambda w: w["totals"]["resolved"])
        assert (window["total"], window["totals"]["firing"]) == (0, 1)
        viewer.subscribe(2, "alerts", sort="-severity")
        assert [each["id"] for each in viewer.next("window", 2)["rows"]] == ["a2", "a1"]


def test_what_another_process_has_written_is_seen_within_a_second(bench: Bench, server: LiveServer) -> None:
    other = ControlPlane(bench.store, lambda: bench.clock[0])
    with server.viewer() as viewer:
        viewer.subscribe(1, "events")
        viewer.subscribe(2, "clusters")
        before = viewer.next("window", 2)["position"]
        other.carry_out("default", AddCluster("west"), Circumstances("another process"))
        bench.clock[0] += 1
        heard = viewer.next("events")
        assert (heard["cursor"], heard["events"][0]["kind"]) == (before + 1, "ClusterAdded")
        assert viewer.window(lambda w: w["position"] > before, 2)["total"] == 2


def test_who_has_had_its_share_of_the_processor_waits_and_others_do_not(bench: Bench, server: LiveServer) -> None:
    """As if it had asked for what takes long, by this connection or another."""
    token = server.new_token()
    with server.viewer(token) as dear, server.viewer() as other:
        for viewer in (dear, other):
            viewer.subscribe(1, "clusters")
            viewer.next("window")
        until("it is written down", lambda: any(name.startswith("default/") for name in server.place._taken))
        [author] = [name for name in server.place._taken if name.startswith("default/")]
        server.place._taken[author] = time.monotonic() + 60
        for number in range(3):
            bench.do(AddCluster(f"more-{number}"))
            other.window(lambda w, total=number + 2: w["total"] == total)
        heard = []
        with suppress(TimeoutError):
            while True:
                heard.append(dear.connection.recv(0.3))
        assert len(heard) <= 1  # a turn that had begun
    until("both are forgotten", lambda: not server.place._taken)


def test_viewers_wait_while_the_database_is_away(bench: Bench, server: LiveServer, tmp_path: Path) -> None:
    def rename(before: str, after: str) -> None:
        with closing(sqlite3.connect(tmp_path / "events.db", timeout=20)) as database, database:
            database.execute(f"ALTER TABLE {before} RENAME TO {after}")

    with server.viewer() as viewer:
        viewer.subscribe(1, "clusters")
        assert viewer.next("window")["total"] == 1
        rename("events", "lost")
        bench.clock[0] += 1
        waiting = viewer.next("waiting")
        assert waiting["problem"]["status"] == 503
        assert "id" not in waiting
        viewer.subscribe(2, "events")  # meanwhile
        rename("lost", "events")
        bench.do(AddCluster("west"))
        assert viewer.window(lambda w: w["total"] == 2, 1)["position"]
        bench.do(AddCluster("south"))
        assert viewer.next("events", 2)["events"][-1]["kind"] == "ClusterAdded"
