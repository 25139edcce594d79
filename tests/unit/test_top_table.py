"""What stands in the table of ``podlane top``, how it is sorted, and what keys do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console
from test_top_rates import API, MBIT, REST, api, reading, watched

from daemon.documents.connections import Connection, Connections, Endpoint
from datapath.connection_list import Order
from podlane.top import command
from podlane.top.columns import COLUMNS, SORTS, arranged, bar, compact, fitting, percent, short_time, spark
from podlane.top.connections import TITLES, cells, in_class
from podlane.top.keys import read_keys
from podlane.top.rates import Frame
from podlane.top.render import MEANINGS, classes_picture, connections_picture, help_picture
from podlane.top.view import HELP, View, after
from tc_core.stats import ClassStats


@pytest.fixture
def frame() -> Frame:
    busy = replace(
        api(bytes=8_000_000, packets=5400, drops=12, backlog_bytes=50_000, backlog_packets=34, lended=1, borrowed=3),
        active=2,
        opened=9,
    )
    return watched(reading(0.0, API, REST), reading(1.0, busy, REST))


def drawn(picture: object, width: int = 160) -> list[str]:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(picture)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_whole_picture(frame: Frame) -> None:
    assert drawn(classes_picture("127.0.0.1:15109", frame, View(), 160, 30)) == [
        "eth0  127.0.0.1:15109  total 100Mbit  used 64% ██████░░░░",
        "last 60 s " + " " * 59 + "▆ 64Mbit",
        "",
        "class    prio    rate     ceil     now          of ceil  borrowed  pkt/s  drop/s        backlog  throttled  conns  new/s  last 60 s",
        "api         1  20Mbit   80Mbit  64Mbit  ████████░░  80%       75%   5.4k      12  48.8 KiB 20ms        50%      2      9                     ▇",
        "default     7   1Mbit  100Mbit    0bit  ░░░░░░░░░░   0%         –      0       0              0         0%      0      0",
        "all         –  21Mbit  100Mbit  64Mbit  ██████░░░░  64%         –   5.4k      12   48.8 KiB 4ms        50%      2      9                     ▆",
        "q quit  s sort  r reverse  p pause  c connections  ? help   in the policy's order",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("height", [8, 24])
def test_a_picture_fits_its_screen(frame: Frame, width: int, height: int) -> None:
    many = replace(frame, rows=tuple(replace(frame.rows[0]) for _ in range(50)))
    for view in (View(), View(is_paused=True), View(top=49)):
        lines = drawn(classes_picture("127.0.0.1:15109", many, view, width, height), width)
        assert len(lines) <= height
        assert all(len(line) <= width for line in lines)


def test_short_of_room_the_least_important_columns_go_first(frame: Frame) -> None:
    def titles(width: int) -> list[str]:
        return [column.title for column in fitting((*frame.rows, frame.totals), width)]

    assert titles(200) == [column.title for column in COLUMNS if column.key != "workload"]
    assert titles(120) == [title for title in titles(200) if title != "last 60 s"]
    assert titles(80) == ["class", "ceil", "now", "of ceil", "drop/s", "backlog", "throttled"]
    assert set(titles(60)) >= {"class", "ceil", "now", "of ceil"}
    for width in range(20, 200):
        assert set(titles(width)) <= set(titles(width + 1)), width


POD = "shop/a-deployment-with-a-long-name-7d9f8b6c5-x2x4z"


@pytest.mark.parametrize(("width", "shown"), [(200, POD), (100, "shop/a-deployme…7d9f8b6c5-x2x4z"), (80, "shop/")])
def test_names_of_workloads_are_shortened_in_the_middle(frame: Frame, width: int, shown: str) -> None:
    pods = [replace(row, reading=replace(row.reading, workload=POD)) for row in frame.rows]
    of_node = replace(frame, rows=tuple(pods), reading=replace(frame.reading, notes=("shop/b refused: No.",)))
    lines = drawn(classes_picture("127.0.0.1:15110", of_node, View(sort="now"), width, 30), width)
    assert all(len(line) <= width for line in lines)
    assert lines[2] == "shop/b refused: No."
    assert lines[3].split()[:2] == ["workload", "class"]
    assert lines[4].startswith(shown)
    assert {"now", "ceil", "rate"} <= set(lines[3].split()) or width < 200
    assert lines[-2].split()[0] == "all"


def test_columns_of_which_nothing_is_known_are_left_out(frame: Frame) -> None:
    unknown = [
        replace(row, reading=replace(row.reading, active=None, priority=None), opened=None) for row in frame.rows
    ]
    assert not {"conns", "new/s", "prio"} & {column.title for column in fitting(unknown, 300)}


@pytest.mark.parametrize(
    ("sort", "reverse", "names"),
    [
        ("policy", False, ["b", "a", "c"]),
        ("policy", True, ["c", "a", "b"]),
        ("name", False, ["a", "b", "c"]),
        ("name", True, ["c", "b", "a"]),
        ("now", False, ["a", "b", "c"]),
        ("now", True, ["b", "c", "a"]),
        ("prio", False, ["a", "b", "c"]),
        ("use", False, ["a", "b", "c"]),
        ("conns", False, ["b", "a", "c"]),
    ],
    ids=str,
)
def test_sorting(sort: str, reverse: bool, names: list[str]) -> None:
    """What is not known comes last either way, and equals stay in the policy's order."""
    b = replace(API, key="b", name="b", priority=2, stats=ClassStats(bytes=10), active=5)
    a = replace(API, key="a", name="a", priority=1, stats=ClassStats(bytes=20), active=1)
    c = replace(API, key="c", name="c", priority=None, stats=ClassStats(bytes=10), active=None, ceil=None)
    before = [replace(each, stats=ClassStats()) for each in (b, a, c)]
    frame = watched(reading(0.0, *before), reading(1.0, b, a, c))
    assert [row.name for row in arranged(frame.rows, sort, reverse=reverse)] == names


def test_the_command_line_knows_all_sorts() -> None:
    assert command.SORTS == SORTS


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0bit"),
        (999, "999bit"),
        (999.6, "1kbit"),
        (18_345_000, "18.3Mbit"),
        (999_900_000, "1Gbit"),
        (2.5e9, "2.5Gbit"),
    ],
)
def test_numbers_have_three_digits(number: float, text: str) -> None:
    assert compact(number, "bit") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "<1ms"), (0.0009, "<1ms"), (0.0384, "38ms"), (0.99999, "1s"), (1.24, "1.2s"), (75, "75s")]
)
def test_short_times(seconds: float, text: str) -> None:
    assert short_time(seconds) == text


def test_shares() -> None:
    assert (percent(None), percent(0.5), percent(1.034)) == ("–", "50%", "103%")
    assert (bar(None, 4), bar(0.5, 4), bar(2.0, 4)) == ("░░░░", "██░░", "████")


def test_a_spark_stands_at_the_right_and_is_full_at_its_top() -> None:
    assert spark([None, None, 0, 1, 50, 100, 200], 8, 100) == "    ▁▅██"
    assert spark([100] * 60, 20, 100) == "█" * 20
    assert spark([None] * 57 + [100, 100, 100], 20, 100) == " " * 19 + "█"
    assert spark([0, 0], 2, 0) == "  "


# --- connections -----------------------------------------------------------------------------------------------------

CLIENT, SERVER = Endpoint("10.0.0.1", 4001), Endpoint("192.0.2.1", 80)
OLD = Connection(
    "api",
    Endpoint("10.0.0.1", 4000),
    Endpoint("2001:db8::1", 443),
    "outbound",
    "api.example.com",
    "tls",
    "relaying",
    185.0,
    517,
    2_000_000,
)
NEW = Connection(None, CLIENT, SERVER, "inbound", None, None, "detecting", 0.2, 0, 0)
ASIDE = Connection("x", CLIENT, SERVER, None, None, None, "stepped-aside", None, None, None)


def test_connections_in_words() -> None:
    assert dict(zip(TITLES, cells(OLD), strict=True)) == {
        "class": "api", "client": "10.0.0.1:4000", "server": "[2001:db8::1]:443", "way": "out", "name": "api.example.com",
        "protocol": "tls", "state": "relaying", "age": "3m 5s", "up": "517 B", "down": "1.9 MiB",
    }  # fmt: skip
    assert cells(NEW)[0] == "(awaited)"
    assert cells(ASIDE)[-3:] == ("–", "–", "–")


def test_connections_are_sorted_by_any_column() -> None:
    every = [NEW, OLD, ASIDE]
    assert in_class(every, "", reverse=False) == every
    assert in_class(every, "age", reverse=False)[0] == OLD
    assert in_class(every, "down", reverse=True)[-1] == OLD
    for title in TITLES:
        assert set(in_class(every, title, reverse=False)) == set(every)


def test_a_picture_of_connections(frame: Frame) -> None:
    lines = drawn(
        connections_picture("here", frame, Connections(300, "newest", (NEW, OLD)), View(connection_sort="age"), 160, 30)
    )
    assert lines[3].split() == list(TITLES)
    assert lines[4].startswith("api")
    assert lines[5].startswith("(awaited)")
    assert lines[6] == "300 connections alive, 2 of them here"
    assert lines[7].endswith("sorted by age")


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        ("q", ["q"]),
        ("s>r", ["s", ">", "r"]),
        ("\x1b[A\x1b[Bj", ["up", "down", "j"]),
        ("\x1bOC", ["right"]),
        ("\x1b[5~\x1b[6~", ["pageup", "pagedown"]),
        ("\x1b", ["escape"]),
        ("\x1b[15~q", ["q"]),
        ("\x1b[1;5Aq", ["q"]),
        ("\x1b[", []),
    ],
    ids=ascii,
)
def test_keys_of_a_terminal(data: str, keys: list[str]) -> None:
    assert list(read_keys(data)) == keys


def pressed(keys: list[str], view: View | None = None, lines: int = 100) -> View:
    view = view or View()
    for key in keys:
        view = after(view, key, lines)
    return view


def test_sorting_by_keys_goes_round() -> None:
    of_node = View(of_node=True)
    assert pressed(["s"], of_node).sort == SORTS[1] == "workload"
    assert pressed(["s"]).sort == SORTS[2] == "name", "no column of workloads is shown"
    assert pressed(["<"]).sort == SORTS[-1]
    assert pressed(["s"] * len(SORTS), of_node) == of_node
    assert pressed(["s"] * (len(SORTS) - 1)) == View()
    in_connections = pressed(["c", "s"])
    assert (in_connections.sort, in_connections.connection_sort) == ("policy", "class")
    assert pressed(["<"] * (len(TITLES) + 1), pressed(["c"])) == pressed(["c"])


@pytest.mark.parametrize(
    ("keys", "top"),
    [
        (["j"] * 3, 3),
        (["down", "up", "up"], 0),
        (["pagedown"] * 20, 99),
        (["pagedown", "k"], 9),
        (["pagedown", "g"], 0),
    ],
)
def test_scrolling_stays_inside(keys: list[str], top: int) -> None:
    assert pressed(keys).top == top


def test_other_keys() -> None:
    assert pressed(["q"]).is_over
    assert pressed(["p"]).is_paused
    assert (
        pressed([" ", "p"]) == pressed(["?", "escape"]) == pressed(["r", "r"]) == pressed(["x", "\x1a", "7"]) == View()
    )
    assert pressed(["l"]).order is Order.LARGEST
    assert pressed(["j", "c"]).top == 0


def test_the_help_names_every_key_and_the_columns_that_need_words() -> None:
    text = "\n".join(drawn(help_picture()))
    for words in (*(words for _, words in HELP), *(name for name, _ in MEANINGS)):
        assert words in text
    titles = {title for name, _ in MEANINGS for title in name.split(", ")}
    assert titles <= {column.title for column in COLUMNS}
    assert MBIT == 1_000_000
