"""Thousands of reviews that no API server sends, to the real process over HTTPS: each has an answer, and nobody is harmed."""

from __future__ import annotations

import base64
import json
import re
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import trio
import yaml
from hostile_reviews import LIMITED, Case, cases

from benchmarks.admission.server import Injector, running
from daemon.kubernetes.http_client import HttpClient
from injector.pod.admission import mutate, validate
from injector.pod.defaults import InjectionDefaults
from injector.server.webhook import MAX_BODY
from tests.injector_server import HOST, body_of, review

pytestmark = pytest.mark.timeout(300)  # 15 s, on a machine that has nothing else to do

SEED = 20261125
REVIEWS = [2_500, pytest.param(10_000, marks=pytest.mark.nightly)]
AT_ONCE = 12
"""Connections, each with a request at a time."""
PATIENCE = 60
"""Seconds for an answer, on a machine that is busy."""
VALUES = Path(__file__).parents[2] / "charts/podlane/values.yaml"

Ask = Callable[[Case], Awaitable[tuple[int, bytes]]]
"""Gives status code and body of the answer."""


@pytest.fixture(scope="module")
def injector() -> Iterator[Injector]:
    # How long it takes is the machine's, which may be busy; whether it is answered is the injector's.
    with running(None, "--deadline", f"{PATIENCE}s") as made:
        yield made


@pytest.fixture(autouse=True)
def deep_stack() -> Iterator[None]:
    """So that what the injector could read can be read here, where pytest's own calls are on the stack."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    yield
    sys.setrecursionlimit(before)


def fields(case: Case) -> dict[str, str]:
    return {} if case.content_type is None else {"content-type": case.content_type}


@asynccontextmanager
async def asking(injector: Injector) -> AsyncIterator[Ask]:
    context = ssl.create_default_context(cadata=injector.authority.decode())
    client = HttpClient(HOST, injector.port, lambda: context, HOST)

    async def ask(case: Case) -> tuple[int, bytes]:
        answer = await client.request(case.method, case.path, fields(case), case.body)
        return answer.status, answer.body

    yield ask
    await client.aclose()


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


strictly = partial(json.loads, parse_constant=no_constant)


def is_review(case: Case) -> bool | None:
    """Whether the body is a JSON object, as another reader of JSON sees it. None: that depends on the stack."""
    if case.sort == "deep":
        return None
    try:
        text = case.body.decode("utf-8-sig")
        document = strictly(text)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    except RecursionError:
        return None
    return isinstance(document, dict)


def wanted(case: Case) -> set[int]:
    """The status codes that are right."""
    path = case.path.partition("?")[0]
    if path not in ("/mutate", "/validate"):
        return {404}
    if case.method != "POST":
        return {405}
    if (case.content_type or "").partition(";")[0].strip().lower() != "application/json":
        return {415}
    if len(case.body) > MAX_BODY:
        return {413}
    if case.sort == "big":
        return {200, 413}  # so many values may take too much memory
    verdict = is_review(case)
    return {200, 400} if verdict is None else {200} if verdict else {400}


def check(case: Case, status: int, body: bytes) -> str:
    """That an answer is right; gives what it is, in a word."""
    assert status in wanted(case), body[:300]
    document = strictly(body)
    if status != 200:
        assert (document["kind"], document["code"]) == ("Status", status)
        assert document["message"]
        return str(status)
    given = json.loads(case.body.decode("utf-8-sig"))
    request = given.get("request")
    uid = request.get("uid") if isinstance(request, dict) else None
    assert (document["apiVersion"], document["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = document["response"]
    assert response["uid"] == (uid if isinstance(uid, str) else "")
    assert all(len(warning) <= 256 for warning in response.get("warnings", ()))
    if response["allowed"] is not True:
        assert response["allowed"] is False
        assert response["status"]["code"] in (400, 422)
        assert response["status"]["message"]
        assert "patch" not in response
        return "refused"
    if "patch" not in response:
        return "allowed"
    assert response["patchType"] == "JSONPatch"
    changed = jsonpatch.apply_patch(
        given["request"]["object"], strictly(base64.b64decode(response["patch"])), in_place=True
    )
    assert any(item["name"] == "podlane" for item in changed["spec"]["initContainers"] if isinstance(item, dict))
    return "patched"


async def send(ask: Ask, given: Iterator[Case]) -> Counter[str]:
    """Send all, several at once; gives how they were answered. Fails with what was answered wrongly."""
    verdicts: Counter[str] = Counter()
    wrong: list[str] = []

    async def one_after_another() -> None:
        for case in given:
            try:
                with trio.fail_after(PATIENCE):
                    verdicts[check(case, *await ask(case))] += 1
            except Exception as error:  # noqa: BLE001 (all that is wrong is told together)
                about = f"{case.sort} {case.method} {case.path[:80]} {case.content_type!r:.60} {case.body[:400]!r}"
                wrong.append(f"{about}: {error!r:.600}")

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(one_after_another)
    assert not wrong, f"{len(wrong)} answers are wrong:\n" + "\n".join(wrong[:10])
    return verdicts


def in_bytes(quantity: str) -> int:
    return int(quantity.removesuffix("Mi")) * 2**20


def test_what_is_nested_too_deeply_for_us_is_refused() -> None:
    """A reader of JSON may reach some levels deeper than what looks at its document."""
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    given = review({**LIMITED, "podlane.io/egress-bandwidth": nested})  # type: ignore[dict-item]
    for webhook in (mutate, validate):
        response = webhook(given, InjectionDefaults(), lambda _namespace, _name: None)["response"]
        assert (response["allowed"], response["status"]["code"]) == (False, 400)
        assert "nested too deeply" in response["status"]["message"]


@pytest.mark.trio
@pytest.mark.parametrize("reviews", REVIEWS)
async def test_hostile_reviews_are_answered(injector: Injector, reviews: int) -> None:
    async with asking(injector) as ask:
        verdicts = await send(ask, cases(reviews, SEED))
        print(dict(verdicts))
        assert sum(verdicts.values()) == reviews
        assert set(verdicts) == {"patched", "allowed", "refused", "400", "404", "405", "413", "415"}
        # As good as before, on the same connection.
        good = Case("good", body_of(review(LIMITED)))
        assert check(good, *await ask(good)) == "patched"


@pytest.mark.trio
async def test_nothing_is_left_of_them(injector: Injector) -> None:
    """After all of the above: no failure of our own, and not more memory than the chart allows."""
    answer = await HttpClient(HOST, injector.metrics_port, None, HOST).request("GET", "/metrics")
    counted = re.findall(rb'podlane_injector_admissions_total\{result="(\w+)",webhook="\w+"\} ([\d.]+)', answer.body)
    assert {result for result, count in counted if float(count)} <= {b"patched", b"allowed", b"refused", b"bad_request"}
    lines = [json.loads(line) for line in injector.log.read_text().splitlines()]
    assert not [line for line in lines if line["level"] not in ("debug", "info", "warning")]
    assert not [line for line in lines if line["event"] == "a connection failed"]
    limit = yaml.safe_load(VALUES.read_text())["injector"]["resources"]["limits"]["memory"]
    assert injector.peak_mib() * 2**20 < in_bytes(limit)
    print(f"memory: {injector.peak_mib():.0f} MiB at its peak, {injector.proportional_mib():.0f} MiB now")


def expensive() -> Iterator[bytes]:
    """Reviews of Pods that take as long as any, each as an API server could send it."""
    unknown = {f"podlane.io/unknown-{i}": "" for i in range(10_000)}
    yield body_of(review(unknown))
    one = {"cidr": "10.{}.{}.0/24", "port": list(range(1000, 1200, 2)), "sni": [f"*.x{k}.com" for k in range(20)]}
    classes = [
        {"name": f"c{i}", "rate": "1Mbit", "match": [{**one, "cidr": [f"10.{i}.{k}.0/24" for k in range(10)]}]}
        for i in range(250)
    ]
    yield body_of(review({**LIMITED, "podlane.io/egress-bandwidth": "10G", "podlane.io/classes": json.dumps(classes)}))
    yield body_of(review({**LIMITED, "podlane.io/classes": f"[{'1,' * 120_000}]"}))


@pytest.mark.trio
async def test_short_reviews_are_answered_during_a_flood_of_expensive_ones(injector: Injector) -> None:
    """Three clients send the most expensive reviews, and leave before they are answered."""
    context = ssl.create_default_context(cadata=injector.authority.decode())
    good, seconds = body_of(review(LIMITED)), list[float]()

    async def flood(body: bytes) -> None:
        client = HttpClient(HOST, injector.port, lambda: context, HOST)
        while True:
            with trio.move_on_after(1):
                await client.request("POST", "/mutate?timeout=1s", {"content-type": "application/json"}, body)

    async with trio.open_nursery() as nursery:
        for body in expensive():
            nursery.start_soon(flood, body)
        async with asking(injector) as ask:
            for _ in range(100):
                began = trio.current_time()
                case = Case("good", good)
                assert check(case, *await ask(case)) == "patched"
                seconds.append(trio.current_time() - began)
        nursery.cancel_scope.cancel()
    seconds.sort()
    print(f"during the flood: p50 {seconds[50] * 1000:.0f} ms, longest {seconds[-1] * 1000:.0f} ms")
    assert seconds[50] < 1  # 3 ms without the flood; the API server waits for 5 s
    assert seconds[-1] < 4
