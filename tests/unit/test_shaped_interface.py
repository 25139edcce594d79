"""Which interface the sidecar shapes."""

from __future__ import annotations

import pytest

from datapath.shaping import shaped_interface
from tc_core.fake.kernel import FakeKernel
from traffic_policy.errors import ConfigError


@pytest.mark.parametrize(("named", "shaped"), [(None, "eth0"), ("eth1", "eth1")], ids=["default route's", "named"])
def test_the_default_routes_unless_named(named: str | None, shaped: str) -> None:
    assert shaped_interface(FakeKernel("eth0", "eth1", default_route="eth0"), named) == shaped


@pytest.mark.parametrize(
    ("named", "words"),
    [(None, "There is no default route"), ("lo", "lo is the loopback interface")],
    ids=["no default route", "loopback"],
)
def test_what_cannot_be_shaped_is_refused_with_a_remedy(named: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"{words}.* --interface"):
        shaped_interface(FakeKernel("lo"), named)
