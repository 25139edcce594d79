"""The parts of the fleet's demo, as data: the Pods of each node, their traffic, and the policies in their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from podlane.demo.scenario import TLS_PORT, Client, DemoLane

NODES: Final = tuple(f"node-{n}" for n in range(1, 6))
CLUSTER: Final = "demo"
SHOP: Final = "shop"
CALLS: Final = "calls"
"""Policies, and the label ``app`` of the Pods that they are for. Each node has a Pod of both."""
LABEL: Final = "app"

LANES: Final[Mapping[str, tuple[DemoLane, ...]]] = {
    SHOP: (
        DemoLane(
            "orders", "sni", "api.shop.test", Client.CURL, "",
            ("--http1.1", "https://api.shop.test/orders"), ("api.shop.test", TLS_PORT),
        ),
        DemoLane(
            "pages", "host", "www.shop.test", Client.CURL, "",
            ("--header", "Host: www.shop.test", "http://{server}/form"),
        ),
    ),
    CALLS: (
        DemoLane(
            "calls", "sni", "data.lab.test", Client.CURL, "",
            ("--http1.1", "https://data.lab.test/calls"), ("data.lab.test", TLS_PORT), pace=720_000,
        ),
    ),
}  # fmt: skip
"""Of each Pod. Those of the shop take what they get; calls want about 6 Mbit/s and no more."""


def _lane(name: str, rate: str, ceil: str, **match: str) -> dict[str, Any]:
    return {"name": name, "rate": rate, "ceil": ceil, "match": match}


SHOP_FIRST: Final = {
    "total": "10Mbit",
    "classes": [
        _lane("orders", "4Mbit", "6Mbit", sni="api.shop.test"),
        _lane("pages", "2Mbit", "4Mbit", host="www.shop.test"),
    ],
}
SHOP_MORE: Final = {
    "total": "14Mbit",
    "classes": [
        _lane("orders", "4Mbit", "8Mbit", sni="api.shop.test"),
        _lane("pages", "2Mbit", "6Mbit", host="www.shop.test"),
    ],
}
CALLS_FIRST: Final = {"total": "80Mbit", "classes": [_lane("calls", "40Mbit", "80Mbit", sni="data.lab.test")]}
"""So much that none of what the program sends at once has to wait: a gate compares with that."""
CALLS_TIGHT: Final = {"total": "3Mbit", "classes": [_lane("calls", "1Mbit", "2500kbit", sni="data.lab.test")]}
"""Far too little for what the program wants."""
