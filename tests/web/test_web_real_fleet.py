"""The pages against agents that hold real Pods to their lanes: what is said in the browser is in the kernel, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from cut_line import line_to
from playwright.sync_api import Browser, Page, WebSocket, expect
from stage import Api, NewPage, Stage
from waiting import until

from podlane.errors import DemoError, NotPermittedError
from podlane.fleet_demo.command import check_machine
from podlane.fleet_demo.fleet_topology import FleetTopology, open_fleet_topology
from podlane.fleet_demo.parts import CALLS, CALLS_FIRST, CLUSTER, NODES, SHOP, SHOP_FIRST

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]  # a busy machine's Chromium takes its time

PATIENCE = 60_000
"""Milliseconds for what goes through agents, kernels and figures of some seconds."""
SAYS = re.compile(r": now ([\d.]+) (.)bit/s, guaranteed ([\d.]+) (.)bit/s, ceiling ([\d.]+) (.)bit/s")
SIZES = {"k": 1e3, "M": 1e6, "G": 1e9}


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetTopology]:
    """Five agents with two Pods each, which upload all the time."""
    try:
        check_machine()
    except (NotPermittedError, DemoError) as error:
        pytest.skip(str(error))
    with open_fleet_topology() as topology:
        yield topology
        topology.stop()


@pytest.fixture(scope="module")
def stage(browser: Browser, fleet: FleetTopology) -> Iterator[Stage]:  # noqa: ARG001
    """Their control plane, with both policies in force."""
    context = fleet.client.context
    api = Api(context.url, context.token)
    with ExitStack() as stack:
        for name, document in ((SHOP, SHOP_FIRST), (CALLS, CALLS_FIRST)):
            api.publish(name, document)
            until(f"{name} everywhere", lambda name=name: limits(fleet, name) != [{}] * len(NODES), patience=60)
        fleet.start_traffic()
        yield Stage(context.url, context.token, 0, api, stack)


def limits(fleet: FleetTopology, app: str) -> list[dict[str, tuple[int, int]]]:
    """Guarantee and ceiling of each lane in the kernel (bit/s), of each node."""
    return [fleet.limits(node, app) for node in NODES]


def chart(page: Page, lane: str) -> Any:
    return page.get_by_role("img", name=re.compile(f"^{lane}: now"))


def said(page: Page, lane: str) -> list[float]:
    """What a lane's chart says: rate, guarantee and ceiling, bit/s over all Pods."""
    found = SAYS.search(chart(page, lane).get_attribute("aria-label") or "")
    assert found is not None
    return [float(found[n]) * SIZES[found[n + 1]] for n in (1, 3, 5)]


def watch(page: Page, url: str, policy: str, lane: str) -> None:
    page.goto(f"{url}/t/default/live?policy={policy}&seconds=60")
    expect(page.get_by_text("Live, every second")).to_be_visible(timeout=PATIENCE)
    expect(chart(page, lane)).to_be_visible(timeout=PATIENCE)


def test_a_limit_changed_in_the_editor_is_in_the_kernel_and_on_the_chart(
    stage: Stage, fleet: FleetTopology, new_page: NewPage
) -> None:
    live, editor = new_page(), new_page()
    watch(live, stage.url, SHOP, "pages")
    # The programs take what they get: nearly four Mbit/s in each of five Pods.
    until("traffic", lambda: said(live, "pages")[0] > 14e6, patience=60)
    until("all Pods in one second", lambda: said(live, "pages")[1:] == [10e6, 20e6], patience=60)

    editor.goto(f"{stage.url}/t/default/policies/{SHOP}")
    editor.get_by_label("Guaranteed of pages", exact=True).fill("1Mbit")
    editor.get_by_label("Ceiling of pages", exact=True).fill("1500kbit")
    editor.get_by_role("button", name="Review and roll out").click()
    editor.get_by_role("button", name="All at once").click()
    editor.get_by_role("button", name="Put in force everywhere").click()
    expect(editor.get_by_text("as r2, in force")).to_be_visible()

    changed = {"orders": (4_000_000, 6_000_000), "pages": (1_000_000, 1_500_000)}
    until("the limit in every kernel", lambda: limits(fleet, SHOP) == [changed] * len(NODES), patience=60)
    until("it on the chart", lambda: said(live, "pages")[1:] == [5e6, 7.5e6], patience=60)
    # What TCP and the server's buffers held passes first. A class may send its burst besides.
    until("less traffic", lambda: 1e6 < said(live, "pages")[0] < 7.5e6 * 1.1, patience=60)
    row = live.get_by_role("table").get_by_role("row").filter(has_text="pages")
    expect(row).to_contain_text("7.5 Mbit/s")


def test_a_failing_canary_is_taken_back_and_the_page_says_by_which_gate(
    stage: Stage, fleet: FleetTopology, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"{stage.url}/t/default/policies/{CALLS}")
    # Far too little for programs that want six.
    page.get_by_label("Guaranteed of calls", exact=True).fill("1Mbit")
    page.get_by_label("Ceiling of calls", exact=True).fill("2500kbit")
    page.get_by_role("button", name="Review and roll out").click()
    page.get_by_label("Share of agents in each stage").fill("20")
    page.get_by_label("Watch each stage for").fill("60")
    page.get_by_label("drops grow by more than this factor").fill("2")
    page.get_by_label("waiting grows by more than this factor").fill("2")
    page.get_by_role("button", name="Roll out", exact=True).click()
    expect(page.get_by_role("heading", level=1).get_by_text("Taken back")).to_be_visible(timeout=PATIENCE)
    # Two seconds later, mostly: which gate it was, with what it has seen.
    reason = page.get_by_text("Why it stands so.").locator("..")
    expect(reason).to_contain_text(re.compile(r"of packets (had to wait|were dropped), [\d.]+% before"))
    until("what was before", lambda: limits(fleet, CALLS) == [{"calls": (40_000_000, 80_000_000)}] * len(NODES))
    page.goto(f"{stage.url}/t/default/rollouts")
    expect(page.get_by_role("region", name="Rollouts")).to_contain_text("Taken back")


class Frames:
    """Of the series that a page gets: the seconds that they are about."""

    def __init__(self, page: Page) -> None:
        self.heads: list[dict[str, Any]] = []
        self._newest: WebSocket | None = None
        page.on("websocket", self._opened)

    def wait(self, number: int) -> None:
        """Until there are so many; the last of them come on the connection that is open."""
        while len(self.heads) < number:
            assert self._newest is not None
            self._newest.wait_for_event("framereceived")

    def _opened(self, socket: WebSocket) -> None:
        self._newest = socket
        socket.on("framereceived", self._read)

    def _read(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            self.heads.append(json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")]))


COLUMNS = """canvas => {
    const {width, height} = canvas, pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    const found = [];
    for (let x = 0; x < width; x++) {
        let colored = false;
        for (let y = 0; y < height && !colored; y++) {
            const at = (y * width + x) * 4, rgb = pixels.slice(at, at + 3);
            colored = pixels[at + 3] > 0 && Math.max(...rgb) - Math.min(...rgb) > 60;
        }
        found.push(colored);
    }
    return found;
}"""
"""Whether anything is drawn in a lane's colour, for each column of a chart's pixels. Axes and words are grey."""


SPAN, AXIS, MARGIN = 60, 62, 14
"""Seconds of the big chart, and pixels left and right of what it draws."""


def holes(page: Page, seconds: int) -> int:
    """Columns without a colour in the last ``seconds`` of the big chart, in which there was traffic all the time."""
    columns: list[bool] = page.locator(".u-wrap canvas").first.evaluate(COLUMNS)
    drawn = columns[AXIS : len(columns) - MARGIN]
    assert len(drawn) > SPAN
    # The chart may have gone on by a second since.
    return drawn[-len(drawn) * (seconds - 2) // SPAN : -len(drawn) // SPAN].count(False)


def test_a_connection_that_breaks_comes_back_without_a_gap_in_the_chart(stage: Stage, new_page: NewPage) -> None:
    page = new_page()
    with line_to(urlsplit(stage.url).port or 0) as line:
        url = f"http://127.0.0.1:{line.port}"
        page.goto(f"{url}/sign-in")
        page.get_by_label("Token").fill(stage.token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        frames = Frames(page)
        watch(page, url, SHOP, "orders")
        frames.wait(3)
        line.cut()
        expect(page.get_by_text("Connection lost")).to_be_visible()
        seen = len(frames.heads)
        last = frames.heads[-1]["cursor"]
        # So long that what comes later cannot be the one frame that was due.
        expect(page.get_by_text(re.compile(r"Connection lost, ([5-9]|\d\d) s old"))).to_be_visible()
        line.mend()
        expect(page.get_by_text("Live, every second")).to_be_visible(timeout=PATIENCE)
        frames.wait(seen + 4)
        back = frames.heads[seen]
        assert (back["from"], back["gap"]) == (last + 1, False)
        assert back["seconds"] >= 4
        ends = [head["from"] + head["seconds"] for head in frames.heads]
        assert [head["from"] for head in frames.heads[1:]] == ends[:-1], "no second is missing, and none comes twice"
        assert holes(page, ends[-1] - ends[0]) == 0


def test_a_pod_lists_its_connections(stage: Stage, new_page: NewPage) -> None:
    page = new_page()
    page.goto(f"{stage.url}/t/default/live?cluster={CLUSTER}&node={NODES[0]}&pod={SHOP}")
    panel = page.get_by_role("region", name="Connections")
    row = panel.get_by_role("row").filter(has_text="www.shop.test").filter(has_text="pages")
    expect(row.first).to_be_visible(timeout=PATIENCE)


def test_a_name_that_is_in_no_lane_is_put_into_one(stage: Stage, fleet: FleetTopology, new_page: NewPage) -> None:
    pod = fleet.pods[NODES[0], SHOP]

    def ask(name: str) -> None:
        address = f"http://{fleet.address}/"
        pod.run(["curl", "-sS", "-m", "9", "-o", "/dev/null", "-H", f"Host: {name}", address], check=False)

    ask("catalog.shop.test")
    ask("forum.shop.test")
    page = new_page()
    page.goto(f"{stage.url}/t/default")
    look = page.get_by_role("button", name=re.compile("^Look: .* in no lane"))
    expect(look).to_be_visible(timeout=PATIENCE)
    look.click()
    row = page.get_by_role("row").filter(has_text="catalog.shop.test")
    expect(row).to_contain_text("in no lane")
    row.get_by_role("link", name=f"Sort catalog.shop.test into a lane of {SHOP}").click()

    # By the menu, which the keyboard has as well; and taken back.
    unsorted = page.get_by_role("region", name="Names in no lane")
    chip = page.locator(".chip").filter(has_text="catalog.shop.test")
    unsorted.get_by_role("button", name="Put into a lane: catalog.shop.test").press("Enter")
    page.get_by_role("menuitem", name="pages").press("Enter")
    expect(chip).to_be_visible()
    expect(unsorted.get_by_text("catalog.shop.test")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(chip).to_have_count(0)
    # By the mouse.
    grip = unsorted.locator(".unsorted-row").filter(has_text="catalog.shop.test").locator(".grip")
    grip.hover()
    lane = page.locator(".lane").filter(has_text="www.shop.test").bounding_box()
    assert lane is not None
    page.mouse.down()
    page.mouse.move(lane["x"] + 60, lane["y"] + 20, steps=8)
    page.mouse.up()
    expect(chip).to_be_visible()
    expect(chip).to_contain_text("www.shop.test")
    # As a completion of what is written. The end of a drag swallows a click, until a timer of 50 ms: behind that one.
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    chip.click()
    dialog = page.get_by_role("dialog")
    hosts = dialog.get_by_role("textbox", name="HTTP host")
    hosts.fill(f"{hosts.input_value()}, for")
    dialog.get_by_role("button", name="forum.shop.test").click()
    dialog.get_by_role("button", name="Keep").click()
    expect(chip).to_contain_text("forum.shop.test")
    expect(unsorted).to_contain_text("None: each name that was seen is asked for by a lane.")

    page.get_by_role("button", name="Review and roll out").click()
    page.get_by_role("button", name="All at once").click()
    page.get_by_role("button", name="Put in force everywhere").click()
    expect(page.get_by_text(re.compile(r"as r\d+, in force"))).to_be_visible()
    place = f"/v1/tenants/default/policies/{SHOP}/progress"
    until("it on every node", lambda: stage.api.ask("GET", place)["in_force"] == len(NODES), patience=60)
    for name in ("catalog.shop.test", "catalog.shop.test", "forum.shop.test"):
        ask(name)
    # It is a new match: what it has taken are these three.
    expect(chip.locator(".chip-hits")).to_have_text("3/h", timeout=PATIENCE)
    page.goto(f"{stage.url}/t/default/names?name=catalog")
    expect(row).to_contain_text("pages", timeout=PATIENCE)
