"""What the kernel announces of traffic control, and to whom."""

from __future__ import annotations

import socket

import pytest

from podlane.netns import Lab
from tc_core.netlink.notifications import TRAFFIC_CONTROL, Notifications

pytestmark = pytest.mark.root


def test_who_looks_after_one_interface_is_not_woken_by_others(lab: Lab) -> None:
    host = lab.host("host")
    for name in ("mine", "other"):
        host.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
    with host.namespace.entered():
        all_, own = Notifications(*TRAFFIC_CONTROL), Notifications(*TRAFFIC_CONTROL)
        own.only_about([socket.if_nametoindex("mine")])
        nobody = Notifications(*TRAFFIC_CONTROL)
        nobody.only_about([])
    for name, heard in (("other", False), ("mine", True)):
        for change in (["link", "set", name, "up"], ["link", "set", name, "txqueuelen", "7"]):
            host.ip(*change)
            assert (all_.arrived(), own.arrived(), nobody.arrived()) == (True, heard, False)
        host.run(["tc", "qdisc", "add", "dev", name, "root", "htb"])
        assert (all_.arrived(), own.arrived(), nobody.arrived()) == (True, heard, False)
    with host.namespace.entered():
        own.only_about([socket.if_nametoindex(name) for name in ("mine", "other")])
    host.run(["tc", "qdisc", "del", "dev", "other", "root"])
    assert own.arrived()
    for each in (all_, own, nobody):
        each.close()
