"""The harnesses of ``make fuzz``: what is kept in their corpus passes, they find what is wrong, and more is tried.

How long each one fuzzes is PODLANE_FUZZ_SECONDS (2); `make fuzz` is for longer.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import datapath.protocols.client_hello
import datapath.protocols.http1_requests
import datapath.protocols.http2_requests
import datapath.protocols.quic_initial
import injector.pod.admission
import tests.fuzz.documents
import traffic_policy.pod.effective
from datapath.protocols.requests import Piece
from podlane.classify.flows import FlowTable
from tests.fuzz.fuzz import run
from tests.fuzz.json_mutation import mutated
from tests.fuzz.targets import HERE, TARGETS

SECONDS = int(os.environ.get("PODLANE_FUZZ_SECONDS", "2"))


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_passes(name: str) -> None:
    target = TARGETS[name]
    harness = target.load()
    assert target.corpus
    for path in target.corpus:
        for full in (True, False):
            try:
                harness(path.read_bytes(), full=full)
            except Exception as error:
                raise AssertionError(f"{path.relative_to(HERE)}, {full=}: {error!r}") from error


def _returning(changed: Callable[[Any], Any], module: Any, name: str) -> tuple[Any, str, Any]:
    """A function of a module, whose result is changed."""
    real = getattr(module, name)
    return module, name, lambda *given, **named: changed(real(*given, **named))


def _without_name(hello: Any) -> Any:
    return hello._replace(sni=None) if isinstance(hello, datapath.protocols.client_hello.ClientHello) else hello


def _without_last(pieces: list[Piece]) -> list[Piece]:
    return pieces[:-1]


def _complaining(_: Any) -> Any:
    raise ValueError("Python's own words, which tell nobody what to do")


def _giving_twice(table: FlowTable, flow: Any) -> None:
    table._give(flow)
    table._give(flow)


HTTP1, HTTP2 = datapath.protocols.http1_requests, datapath.protocols.http2_requests
PLANTED: dict[str, tuple[Any, str, Any]] = {
    "client_hello": _returning(_without_name, datapath.protocols.client_hello, "_client_hello"),
    "http1": _returning(_without_last, HTTP1.Http1Cutter, "feed"),
    "http2": _returning(_without_last, HTTP2.Http2Cutter, "feed"),
    "quic_initial": _returning(_without_name, datapath.protocols.quic_initial, "parse_client_hello"),
    "policy": _returning(lambda _: {"total": "1Mbit"}, tests.fuzz.documents.TrafficPolicy, "to_document"),
    "annotations": _returning(_complaining, traffic_policy.pod.effective, "compose"),
    "review": _returning(lambda _: [{"op": "add", "path": "/x", "value": 1}], injector.pod.admission, "patch"),
    "pcap": (FlowTable, "_end", _giving_twice),
}
"""For each harness something that is wrong: a name that is not told, a piece that is lost ..."""


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_wrong_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A harness that finds nothing when something is wrong would find nothing at all."""
    target = TARGETS[name]
    harness = target.load()
    monkeypatch.setattr(*PLANTED[name])
    with pytest.raises((AssertionError, ValueError, KeyError)):  # noqa: PT012 (whichever input shows it)
        for path in target.corpus:
            harness(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(120 + 2 * SECONDS)
def test_nothing_more_is_found_in_a_while(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: make fuzz installs it")
    assert run(TARGETS[name], tmp_path, SECONDS), capfd.readouterr().err
    (executions,) = re.findall(r"([\d,]+) executions", capfd.readouterr().out)
    assert int(executions.replace(",", "")) > len(TARGETS[name].corpus)
    assert any((tmp_path / name).iterdir()), "nothing was learnt: atheris is not told what was executed"


def test_changed_json_is_json_and_the_seed_decides() -> None:
    review = TARGETS["review"].corpus[0].read_bytes()
    made = {seed: mutated(review, 4096, seed, lambda data, most: data[:most]) for seed in range(200)}
    assert len(set(made.values())) > 100
    assert all(json.loads(data) is not ... and len(data) <= 4096 for data in made.values())
    assert made == {seed: mutated(review, 4096, seed, lambda data, most: data[:most]) for seed in made}


def test_the_page_names_every_harness_in_both_tables() -> None:
    page = (HERE.parents[1] / "docs/development/fuzzing.md").read_text()
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == 2 * list(TARGETS)
