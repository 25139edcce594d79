"""The parts of the demo: their transfers and phases, as data.

Classes join one after another, so that each phase shows one thing. A further kind of traffic needs one more entry, its
class in the part's policy file and a phase in which it joins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from podlane.demo.scenario import HTTP2_PORT, HTTP_PORT, RAW_PORT, TLS_PORT, Client, DemoLane, Part, Phase, TransferKind

# Okabe and Ito's palette, which the colour-blind can tell apart.
_BLUE, _RED, _GREEN, _PURPLE, _GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#767676"
_ORANGE, _SKY = "#e69f00", "#56b4e9"

UPLOADS: Final = Part(
    "uploads",
    "Five lanes to one server address",
    "Uploads by unmodified curl and cat",
    ("policy.yaml", "policy-changed.yaml"),
    (
        DemoLane(
            "api", "sni", "api.shop.test", Client.CURL, _BLUE,
            ("--http2", "https://api.shop.test/orders"), ("api.shop.test", TLS_PORT),
        ),
        DemoLane(
            "video", "sni", "*.video.test", Client.CURL, _RED,
            ("--http1.1", "https://eu.video.test/upload"), ("eu.video.test", TLS_PORT),
        ),
        DemoLane(
            "web", "host", "www.shop.test", Client.CURL, _GREEN,
            ("--header", "Host: www.shop.test", "http://{server}/form"),
        ),
        DemoLane(
            "events", ":authority", "events.shop.test", Client.CURL, _PURPLE,
            ("--http2-prior-knowledge", f"http://events.shop.test:{HTTP2_PORT}/stream"),
            ("events.shop.test", HTTP2_PORT),
        ),
        DemoLane("backup", "port", str(RAW_PORT), Client.CAT, _GREY),
    ),
    (
        Phase("backup alone", "it borrows up to its ceil", 4, join="backup"),
        Phase("video joins", "it is lent to first, backup gets what is left", 4.5, join="video"),
        Phase("web joins", "both are lent to in proportion to their guarantees", 4, join="web"),
        Phase("events joins", "it goes before video and web", 4, join="events"),
        Phase("api joins", "everybody wants everything, and gets what is guaranteed", 6.5, join="api"),
        Phase("limits change", "api is cut, video is promised more; no connection breaks", 7, change_limits=True),
        Phase("video ends", "the others borrow what it leaves", 6, end="video"),
    ),
)  # fmt: skip

BOTH_WAYS: Final = Part(
    "both-ways",
    "Both ways, and request by request",
    "Downloads and uploads by unmodified curl and aioquic",
    ("both-ways.yaml",),
    (
        DemoLane(
            "shop", "host", "www.shop.test", Client.CURL, _BLUE,
            ("http://www.shop.test/shop",), ("www.shop.test", HTTP_PORT), TransferKind.ANSWER,
        ),
        DemoLane(
            "media", "port", str(HTTP2_PORT), Client.CURL, _RED,
            ("--http2-prior-knowledge", f"http://media.shop.test:{HTTP2_PORT}/media"),
            ("media.shop.test", HTTP2_PORT), TransferKind.ANSWER,
        ),
        DemoLane(
            "updates", "host", "updates.os.test", Client.CURL, _ORANGE,
            ("http://updates.os.test/updates",), ("updates.os.test", HTTP_PORT), TransferKind.DOWNLOAD,
        ),
        DemoLane(
            "dataset", "sni", "data.lab.test", Client.CURL, _SKY,
            ("--http1.1", "https://data.lab.test/dataset"), ("data.lab.test", TLS_PORT), TransferKind.DOWNLOAD,
        ),
        DemoLane(
            "live", "sni", "live.shop.test", Client.QUIC, _GREY, resolve=("live.shop.test", TLS_PORT),
            note="all other QUIC on its port would be held to 2",
        ),
        DemoLane(
            "reports", "host", "reports.shop.test", Client.CURL, _PURPLE,
            ("--header", "Host: reports.shop.test", "http://{server}/reports"), None, TransferKind.REQUEST,
        ),
        DemoLane(
            "orders", "host", "orders.shop.test", Client.CURL, _GREEN,
            ("--header", "Host: orders.shop.test", "http://{server}/orders"), None, TransferKind.REQUEST,
        ),
    ),
    (
        Phase("shop", "a client downloads from the Pod: answers have lanes, too", 4, join="shop"),
        Phase("media", "another client, another port: it gets what is left", 4, join="media"),
        Phase("updates", "a download into the Pod, up to its ceil", 4, join="updates"),
        Phase("dataset", "a second one: both get what they are guaranteed", 4, join="dataset"),
        Phase("live", "an upload by QUIC, told by name: by its port it would get 2 Mbit/s", 4, join="live"),
        Phase("reports", "an upload on a connection that is kept", 4, join="reports"),
        Phase("orders", "the next request on the same connection, another lane", 5, join="orders", end="reports"),
    ),
)  # fmt: skip

AGENT: Final = Part(
    "agent",
    "Three Pods held by one agent, each to a policy of its own",
    "Uploads by unmodified curl and cat",
    ("agent.yaml", "agent-changed.yaml"),
    (
        DemoLane(
            "orders", "sni", "api.shop.test", Client.CURL, _BLUE,
            ("--http2", "https://api.shop.test/orders"), ("api.shop.test", TLS_PORT), pod="web",
        ),
        DemoLane(
            "pages", "host", "www.shop.test", Client.CURL, _SKY,
            ("--header", "Host: www.shop.test", "http://{server}/form"), pod="web",
        ),
        DemoLane(
            "stream", "sni", "*.video.test", Client.CURL, _RED,
            ("--http1.1", "https://eu.video.test/upload"), ("eu.video.test", TLS_PORT), pod="video",
        ),
        DemoLane(
            "events", ":authority", "events.shop.test", Client.CURL, _PURPLE,
            ("--http2-prior-knowledge", f"http://events.shop.test:{HTTP2_PORT}/stream"),
            ("events.shop.test", HTTP2_PORT), pod="video",
        ),
        DemoLane("backup", "port", str(RAW_PORT), Client.CAT, _GREY, pod="batch"),
        DemoLane(
            "dataset", "sni", "data.lab.test", Client.CURL, _GREEN,
            ("--http1.1", "https://data.lab.test/dataset"), ("data.lab.test", TLS_PORT), pod="batch",
        ),
    ),
    (
        Phase("backup", "in the Pod batch, up to its ceil", 4, join="backup"),
        Phase("dataset", "in the same Pod: backup gets what is left", 4, join="dataset"),
        Phase("pages", "in the Pod web: no other Pod feels it", 4, join="pages"),
        Phase("orders", "in the same Pod, and lent to first", 4, join="orders"),
        Phase("stream", "in the Pod video, alone there", 4, join="stream"),
        Phase("events", "it goes before stream", 4, join="events"),
        Phase("limits change", "of the Pod web; no connection breaks", 6, change_limits=True),
        Phase("orders ends", "pages has what the policy allows it", 5, end="orders"),
    ),
    ("web", "video", "batch"),
)  # fmt: skip
"""Played by itself."""

PARTS: Final[Mapping[str, Part]] = {part.name: part for part in (UPLOADS, BOTH_WAYS)}
"""In the order in which they are played."""
