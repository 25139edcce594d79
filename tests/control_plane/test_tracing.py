"""Traces of a change, as a collector gets them."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from domain_commands import POLICY
from fleet_bench import Agent, Bench, running_bench
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.testclient import TestClient

from control_plane.bootstrap import another_token
from control_plane.http.app import create_app
from control_plane.otlp_traces import OtlpTraces

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(ThreadingHTTPServer):
    """https://opentelemetry.io/docs/specs/otlp/#otlphttp"""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.names: set[str] = set()
        super().__init__(("127.0.0.1", 0), Receiver)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        server: Any = self.server
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            server.names |= {each.value.string_value for each in resource.resource.attributes}
            server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def traces(collector: Collector) -> OtlpTraces:
    return OtlpTraces(f"http://127.0.0.1:{collector.server_port}")


@pytest.fixture
def bench(tmp_path: Path, traces: OtlpTraces) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}", traces) as bench:
        yield bench


def attributes(span: Span) -> dict[str, object]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_change_from_the_request_to_the_agents_that_have_it(
    bench: Bench, traces: OtlpTraces, collector: Collector
) -> None:
    agents = [Agent(bench, bench.enrol(bench.join_token(), node)).hello() for node in ("n1", "n2")]
    bench.until("both are let in", lambda: len(bench.fleet.agents("default").agents) == 2)
    api = TestClient(create_app(bench.plane, bench.fleet))
    headers = {"Authorization": f"Bearer {another_token(bench.plane)}", "traceparent": f"00-{TRACE}-{'1' * 16}-01"}
    place = "/v1/tenants/default/policies/web"
    assert api.put(f"{place}/draft", headers=headers, json={"document": POLICY}).status_code == 200
    assert api.post(f"{place}/publish", headers=headers).status_code == 200
    assert api.get(place, headers=headers).status_code == 200
    for agent in agents:
        bench.until("the policy", agent.take)
        agent.confirm()
    traces.close()

    spans = [each for each in collector.spans if each.trace_id.hex() == TRACE]
    assert "podlane-control-plane" in collector.names
    by_id = {each.span_id: each for each in spans}

    def above(span: Span) -> list[str]:
        found = by_id.get(span.parent_span_id)
        return [span.name, *(above(found) if found is not None else [])]

    ways = [above(each) for each in spans]
    for way in (
        ["append", "command PublishPolicy", "POST"],
        ["project", "command PublishPolicy", "POST"],
        ["deliver", "command PublishPolicy", "POST"],
        ["append", "command DraftPolicy", "PUT"],
    ):
        assert way in ways, ways
    assert not [each for each in spans if each.name == "GET"], "reading changes nothing"
    (deliver,) = (each for each in spans if each.name == "deliver")
    told = attributes(deliver)
    assert (told["podlane.agents"], told["podlane.agents.silent"]) == (2, 0)
    assert told["podlane.revision"] == bench.revision()


def test_a_collector_that_is_away_holds_up_neither_requests_nor_the_end() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        traces = OtlpTraces(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with traces.request("PUT", "/v1/tenants/shop", "no traceparent"), traces.command("shop", "CreateTenant"):
            traces.appended("shop", 1, 5000)
        assert len(traces._commands) == 1000
        began = time.monotonic()
        traces.close()
        assert time.monotonic() - began < 20, "the exporter's own patience would be half a minute"


def test_nothing_of_it_is_imported_unless_it_is_wanted() -> None:
    # The API alone, without the SDK, is what a library of ours imports where it is installed.
    program = (
        "import sys, control_plane.main; print([n for n in sys.modules if 'opentelemetry.sdk' in n or 'otlp' in n])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
