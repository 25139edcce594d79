"""Log lines: columns for people, JSON for machines."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

import pytest

from daemon import log

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    log.configure()


def written(stream: io.StringIO) -> list[str]:
    return re.sub(TIME, "T", stream.getvalue()).splitlines()


def test_columns_and_fields_in_the_order_of_their_names() -> None:
    out = io.StringIO()
    log.configure("console", "info", out)
    log.Logger().info("ready", total="5Mbit", ports=[1], gone=None, to="go direct", empty="")
    log.Logger().warning("an event that is longer than its thirty cells")
    assert written(out) == [
        f"T [info     ] {'ready':<30} empty= gone=None ports=[1] to='go direct' total=5Mbit",
        "T [warning  ] an event that is longer than its thirty cells",
    ]


def test_json_is_one_object_per_line_with_what_each_line_has() -> None:
    out = io.StringIO()
    log.configure("json", "info", out, worker=3)
    log.Logger().error("failed", place=io, number=1)
    [line] = out.getvalue().splitlines()
    told = json.loads(line)
    assert re.fullmatch(TIME, told.pop("timestamp"))
    assert told == {"place": repr(io), "number": 1, "worker": 3, "event": "failed", "level": "error"}


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_comes_along(log_format: str) -> None:
    out = io.StringIO()
    log.configure(log_format, "info", out)
    try:
        raise ValueError("of a test")
    except ValueError as error:
        log.Logger().error("given", exc_info=error)
        log.Logger().exception("being handled")
    assert out.getvalue().count("Traceback (most recent call last):") == 2
    assert out.getvalue().count("ValueError: of a test") == 2
    if log_format == "json":
        assert ["exc_info" in json.loads(line) for line in out.getvalue().splitlines()] == [False, False]


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    log.configure("console", "warning", out)
    logger = log.Logger()
    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    assert [line.split()[-1] for line in written(out)] == ["c"]
    assert [logger.is_enabled_for(level) for level in ("debug", "info", "warning", "error")] == [
        False,
        False,
        True,
        True,
    ]


def test_a_terminal_has_colours_unless_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    log.configure("console", "info", out)
    log.Logger().info("ready", port=1)
    coloured = out.getvalue()
    assert "\x1b[36mport\x1b[0m=\x1b[35m1\x1b[0m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    log.Logger().info("ready", port=1)
    plain = out.getvalue().removeprefix(coloured)
    assert re.sub(r"\x1b\[\d+m", "", coloured).split()[1:] == plain.split()[1:]
    assert "\x1b" not in plain


def test_one_write_makes_a_line() -> None:
    class Counting(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            return super().write(text)

    out = Counting()
    log.configure("console", "info", out)
    log.Logger().info("ready")
    assert (out.writes, out.getvalue()[-1]) == (1, "\n"), "workers write to the same place"


def test_what_comes_too_often_is_counted_and_not_written() -> None:
    out = io.StringIO()
    log.configure("json", "info", out)
    often, now = log.Logger(spacing=1000.0), log.Logger(spacing=1e-9)
    for i in range(5):
        often.info("no review", number=i)
    often.info("something else")
    for _ in range(2):
        now.info("after a while")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["no review", "something else", "after a while", "after a while"]
    assert not any("omitted" in line for line in lines)
    often._last["no review"] = (-2000.0, 4)
    often.info("no review", number=5)
    assert json.loads(out.getvalue().splitlines()[-1])["omitted"] == 4
