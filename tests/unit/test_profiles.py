"""The policies that come with the package: each can be used as it is, at every size, and says what it is for."""

from __future__ import annotations

from importlib import resources

import pytest

from tc_core.compile.packet_tree import lanes_of
from tc_core.controller import TrafficController
from tc_core.fake.kernel import FakeKernel
from tc_core.probe.capability import ALL_FEATURES
from traffic_policy.errors import PolicyError, UnitError
from traffic_policy.policy import Queue
from traffic_policy.profiles import Profile, profile_named, profiles
from traffic_policy.units import Rate

EVERY = pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
SIZES = ("500kbit", "3.333Mbit", "100Mbit", "1Gbit", "40Gbit")


def test_these_there_are() -> None:
    assert [profile.name for profile in profiles()] == ["bulk-backup", "home-fair", "voip", "web-server"]
    files = {
        entry.name for entry in resources.files("traffic_policy.profiles").iterdir() if entry.name.endswith(".yaml")
    }
    assert files == {f"{profile.name}.yaml" for profile in profiles()}


@EVERY
def test_its_first_line_says_what_it_is_for_and_its_comments_explain(profile: Profile) -> None:
    assert profile.text.startswith(f"# {profile.summary}\n")
    assert profile.summary.endswith(".")
    assert len(profile.summary) <= 100
    assert sum("#" in line for line in profile.text.splitlines()) >= 6


@EVERY
@pytest.mark.parametrize("total", SIZES)
def test_it_can_be_applied_at_every_size_with_the_same_shares(profile: Profile, total: str) -> None:
    kernel = FakeKernel("eth0")
    made = TrafficController.from_profile("eth0", profile.name, total=total, kernel=kernel, features=ALL_FEATURES)
    assert made.validate() == []
    made.apply()
    assert made.plan() == []
    scaled, written = made.policy(), profile.policy()
    assert str(scaled.total) == total
    for one, original in zip(scaled.resolved(), written.resolved(), strict=True):
        for key in ("rate", "ceil"):
            share = getattr(original, key).bits_per_second / written.total.bits_per_second
            got = getattr(one, key).bits_per_second
            assert share * scaled.total.bits_per_second == pytest.approx(got, abs=1000) or got == 8000
    assert sum(one.rate.bits_per_second for one in scaled.resolved()) <= scaled.total.bits_per_second


def test_each_keeps_its_promise() -> None:
    def classes(name: str) -> dict[str, tuple[int, Queue]]:
        return {c.name: (c.priority, c.queue) for c in profile_named(name).policy().resolved()}

    voip = classes("voip")
    assert voip["voice"] == (0, Queue.LOW_LATENCY)
    assert all(priority > 0 for name, (priority, _) in voip.items() if name not in ("voice", "signalling"))
    home = classes("home-fair")
    assert home["default"][1] is Queue.FAIR
    assert home["bulk"][0] > home["default"][0] > home["quick"][0]
    backup = profile_named("bulk-backup").policy()
    assert backup.classes[0].priority > backup.default.priority
    assert backup.resolved()[0].ceil == backup.total, "all that is unused"
    web = classes("web-server")
    assert web["upkeep"][0] > web["default"][0], "answers to visitors come first"


def test_both_directions_of_a_home_network_are_fair() -> None:
    made = TrafficController.from_profile("eth0", "home-fair", total="18Mbit").ingress_total("90Mbit")
    tree = lanes_of(made.policy(), "eth0", ALL_FEATURES).ingress
    assert tree is not None
    assert [leaf.kind for leaf in tree.tree.leaves] == ["fq_codel"]


def test_what_is_asked_wrong() -> None:
    with pytest.raises(PolicyError, match=r"There is no profile 'WebServer'\. Did you mean web-server\?"):
        profile_named("WebServer")
    with pytest.raises(PolicyError, match="There are bulk-backup, home-fair, voip, web-server"):
        TrafficController.from_profile("eth0", "xyzzy", total="1Mbit")
    with pytest.raises(UnitError, match="has no unit"):
        TrafficController.from_profile("eth0", "voip", total="100")
    with pytest.raises(PolicyError, match=r"profile web-server: .*Cannot guarantee"):
        profile_named("web-server").policy(Rate.parse("50kbit"))
