"""Questions to agents, and what hostile ones answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fleet_bench import Agent, Bench, running_bench
from starlette.testclient import TestClient

from control_plane.bootstrap import another_token
from control_plane.domain.errors import StateConflictError, TooManyError
from control_plane.fleet.questions import SilentAgentError
from control_plane.http.app import create_app
from fleet_api.agent_pb2 import Answer, Question

PLACE = ("default", "east", "n1")
LANE = {"lane": "web", "direction": "egress", "rate": [1_000_000, 0], "dropped": [0, 3], "throttled": [7, 0]}
MINUTES = {
    "until": 1_800_000_000,
    "minutes": 2,
    "workloads": [{"workload": "shop/web-1", "policy": "web", "lanes": [LANE]}],
    "after": "",
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_bench(tmp_path, f"sqlite:{tmp_path / 'events.db'}") as bench:
        yield bench


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def here(bench: Bench) -> Agent:
    agent = bench.agent().hello()
    bench.until("n1 is let in", lambda: ("east", "n1") in bench.fleet.agents("default").agents)
    return agent


def questions(bench: Bench, agent: Agent, number: int) -> list[Question]:
    """The next ones that it is asked."""
    before = len(agent.messages)

    def asked() -> bool:
        agent.take()
        return len(agent.messages) >= before + number

    bench.until(f"{number} questions", asked)
    return [message.question for message in agent.messages[before:]]


def ask(bench: Bench, threads: ThreadPoolExecutor) -> Future[dict[str, Any]]:
    return threads.submit(bench.questions.ask, *PLACE, Question(diagnosis=True))


def test_answers_come_to_who_has_asked(bench: Bench, threads: ThreadPoolExecutor) -> None:
    agent = here(bench)
    asked = [ask(bench, threads) for _ in range(3)]
    known = questions(bench, agent, 3)
    assert all(each.diagnosis for each in known)
    assert len({each.id for each in known}) == 3
    agent.say(answer=Answer(id=999, document="{}"))  # nobody has asked that
    for question in reversed(known):
        agent.say(answer=Answer(id=question.id, document=json.dumps({"id": question.id})))
    assert sorted(each.result(10)["id"] for each in asked) == sorted(each.id for each in known)


def test_one_that_is_away_goes_away_or_refuses(bench: Bench, threads: ThreadPoolExecutor) -> None:
    bench.agent()
    waiting = ask(bench, threads)
    bench.until("a refusal", waiting.done)
    with pytest.raises(StateConflictError, match="is not connected"):
        waiting.result()
    agent = Agent(bench, bench.enrol(bench.join_token(node="n1"), "n1")).hello()
    bench.until("n1 is let in", lambda: ("east", "n1") in bench.fleet.agents("default").agents)
    waiting = ask(bench, threads)
    [question] = questions(bench, agent, 1)
    agent.say(answer=Answer(id=question.id, refusal="The agent has no workload a."))
    with pytest.raises(StateConflictError, match="has no workload a"):
        waiting.result(10)
    waiting = ask(bench, threads)
    questions(bench, agent, 1)
    agent.call.end()
    with pytest.raises(SilentAgentError, match="gone away"):
        waiting.result(10)


@pytest.mark.parametrize("document", ["", "{", "[]", "7", "[" * 200_000, '{"a":' * 40_000])
def test_what_is_no_document_is_refused(bench: Bench, threads: ThreadPoolExecutor, document: str) -> None:
    agent = here(bench)
    waiting = ask(bench, threads)
    [question] = questions(bench, agent, 1)
    agent.say(answer=Answer(id=question.id, document=document))
    with pytest.raises(SilentAgentError, match="no document"):
        waiting.result(10)


def test_silent_agents_hold_few_threads_and_little_memory(bench: Bench, threads: ThreadPoolExecutor) -> None:
    agent = here(bench)
    asked = [ask(bench, threads) for _ in range(10)]
    bench.until("refusals", lambda: sum(each.done() for each in asked) >= 6)
    refused = [each.exception() for each in asked if each.done()]
    # Eight are waited for at once; who comes when some of these have been sent away has a place.
    assert sum(isinstance(each, TooManyError) for each in refused) <= 2
    assert all(isinstance(each, SilentAgentError | TooManyError) for each in refused)
    assert len(refused) == 6, "one has four to answer at most"
    agent.call.end()
    assert all(isinstance(each.exception(10), SilentAgentError | TooManyError) for each in asked)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"minutes": 61}, 503),
        ({"workloads": [{"workload": "a", "policy": "", "lanes": [{**LANE, "rate": [-1]}]}]}, 503),
        ({"workloads": [{"workload": "a", "policy": "", "lanes": [{**LANE, "rate": [0] * 61}]}]}, 503),
        ({"workloads": [{"workload": "a" * 401, "policy": "", "lanes": []}]}, 503),
        ({"until": 2**60}, 503),
    ],
)
def test_minutes_by_rest(bench: Bench, threads: ThreadPoolExecutor, change: dict[str, Any], status: int) -> None:
    api = TestClient(create_app(bench.plane, bench.fleet))
    headers = {"Authorization": f"Bearer {another_token(bench.plane)}"}
    place = "/v1/tenants/default/clusters/east/agents"
    agent = here(bench)
    assert api.get(f"{place}/n9/minutes", headers=headers).status_code == 404
    waiting = threads.submit(api.get, f"{place}/n1/minutes?workload=shop/web-1&after=a", headers=headers)
    [question] = questions(bench, agent, 1)
    assert (list(question.minutes.workloads), question.minutes.after) == (["shop/web-1"], "a")
    agent.say(answer=Answer(id=question.id, document=json.dumps({**MINUTES, **change})))
    response = waiting.result(10)
    assert response.status_code == status
    if status == 200:
        assert response.json() == MINUTES


CONNECTION = {
    "class": "web", "client": {"address": "10.0.0.7", "port": 50123}, "destination": {"address": "::1", "port": 443},
    "direction": "outbound", "name": "example.com", "protocol": "tls", "state": "relaying", "age_seconds": 1.5,
    "bytes_up": 100, "bytes_down": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"active": 7, "order": "newest", "connections": [CONNECTION]}, 200),
        ({"active": 0, "order": "newest", "connections": [], "of a newer version": 1}, 200),
        ({"active": 7, "order": "newest", "connections": [CONNECTION] * 201}, 503),
        ({"active": 7, "order": "newest", "connections": [{**CONNECTION, "bytes_up": -1}]}, 503),
        ({"active": 7, "order": "newest", "connections": [{**CONNECTION, "name": "x" * 401}]}, 503),
        ({"active": 7, "order": "worst", "connections": []}, 503),
    ],
)
def test_connections_by_rest(bench: Bench, threads: ThreadPoolExecutor, answer: dict[str, Any], status: int) -> None:
    api = TestClient(create_app(bench.plane, bench.fleet))
    headers = {"Authorization": f"Bearer {another_token(bench.plane)}"}
    place = "/v1/tenants/default/clusters/east/agents/n1/connections"
    agent = here(bench)
    assert api.get(place, headers=headers).status_code == 422, "of no workload"
    query = {"workload": "shop/web-1", "limit": 5, "order": "newest"}
    waiting = threads.submit(api.get, place, params=query, headers=headers)
    [question] = questions(bench, agent, 1)
    asked = question.connections
    assert (asked.workload, asked.limit, asked.largest) == ("shop/web-1", 5, False)
    agent.say(answer=Answer(id=question.id, document=json.dumps(answer)))
    found = waiting.result(10)
    assert found.status_code == status, found.text
    if status == 200:
        answer.pop("of a newer version", None)
        assert found.json() == answer
