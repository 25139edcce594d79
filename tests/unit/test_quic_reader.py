"""What the reader of QUIC does where the kernel lacks what its rules need. The queue itself is in tests/kernel."""

from __future__ import annotations

from typing import Never

import pytest

from datapath.errors import RulesetError
from datapath.netfilter.ruleset import CaptureSettings, Ruleset, build_ruleset
from datapath.quic_classifier import QuicReader
from datapath.routing.cached import Routing
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy


@pytest.mark.parametrize(
    ("failures", "installed", "tries"),
    [(0, "with", 1), (1, "with", 2), (2, "without", 3)],
    ids=["at once", "the second time", "without"],
)
def test_only_what_fails_twice_is_done_without(failures: int, installed: str, tries: int) -> None:
    policy = TrafficPolicy.model_validate(
        {"total": "1Gbit", "classes": [{"name": "video", "rate": "8kbit", "match": [{"sni": "video.example"}]}]}
    )
    ids = ClassIds.assign(["video"])
    rulesets = {
        name: build_ruleset(policy, ids, CaptureSettings(interface="eth0", quic=quic))
        for name, quic in (("with", True), ("without", False))
    }
    tried: list[Ruleset] = []

    def install(ruleset: Ruleset) -> None:
        tried.append(ruleset)
        if len(tried) <= failures:
            raise RulesetError("another program holds the lock")

    reader = QuicReader(none_is_made)
    assert reader.install(install, rulesets["with"], lambda: rulesets["without"]) == rulesets[installed]
    assert (tried[-1], len(tried)) == (rulesets[installed], tries)
    assert reader.available == (installed == "with")
    reader.try_again()
    assert reader.available


def none_is_made(_routing: Routing) -> Never:
    raise AssertionError
