"""The plot of a demo: both formats, readable as what they claim to be, with the limits in them."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest

from podlane.demo.parts import BOTH_WAYS, UPLOADS
from podlane.demo.recording import Recording
from podlane.demo.scenario import Part, make_scenario

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'podlane[demo]'")

from podlane.demo.plot import draw, plateau_middle


@pytest.fixture(scope="module")
def recording() -> Recording:
    return recorded(UPLOADS)


def recorded(part: Part) -> Recording:
    scenario = make_scenario(part, 10 / part.seconds)
    made = Recording(scenario, changed_at=scenario.change_at)
    for tick in range(41):
        made.add(tick / 4, {lane.name: tick * 100_000 for lane in scenario.lanes})
    return made


def texts(svg: Path) -> set[str]:
    nodes = ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    return {"".join(node.itertext()).strip() for node in nodes}


@pytest.fixture(scope="module")
def drawn(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    svg, png = folder / "demo.svg", folder / "demo.png"
    draw(recording, [svg, png])
    return svg, png


def test_both_formats_are_written(drawn: tuple[Path, Path]) -> None:
    svg, png = drawn
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    assert width == 1600
    assert height > 1000


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (UPLOADS, {"total 100", "ceil 20", "guaranteed 45", "limits change", "video ends", "all lanes together"}),
        (
            BOTH_WAYS,
            {"total 100", "total 80", "ceil 70", "guaranteed 15", "sent by the Pod: all lanes together"}
            | {"Both ways, and request by request, sharing 100 Mbit/s out and 80 Mbit/s in"}
            | {"download, by TLS server name data.lab.test", "answers, by TCP port 8080"}
            | {"upload by QUIC, by its server name live.shop.test (all other QUIC on its port would be held to 2)"},
        ),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_limits_and_names_are_written_in(
    part: Part, words: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from podlane.demo import plot

    # Text as text instead of outlines, so that it can be looked for (what has a halo stays an outline).
    monkeypatch.setitem(plot._STYLE, "svg.fonttype", "none")
    svg = tmp_path / "demo.svg"
    draw(recorded(part), [svg])
    assert words <= texts(svg)
    assert {lane.name for lane in part.lanes} <= texts(svg)


def test_a_layer_is_named_where_it_keeps_still() -> None:
    from podlane.demo import plot

    written = []
    axes = SimpleNamespace(text=lambda x, y, name, **_: written.append((x, y, name)))
    below, layer = [60.0] * 4 + [50, 40] + [40] * 6, [0.0] * 2 + [20] * 10
    plot._label_layer(axes, "live", range(12), [below, layer], 1)
    assert written == [(9, 50, "live")], "where its plateau and what is below are both level"


def test_the_same_recording_gives_the_same_file(recording: Recording, drawn: tuple[Path, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.svg"
    draw(recording, [again])
    assert again.read_bytes() == drawn[0].read_bytes()


def test_a_recording_that_was_cut_short_can_be_drawn(tmp_path: Path) -> None:
    short = Recording(make_scenario(UPLOADS))
    short.add(0.0, {lane.name: 0 for lane in short.scenario.lanes})
    draw(short, [tmp_path / "short.svg"])
    assert ElementTree.parse(tmp_path / "short.svg").getroot() is not None


@pytest.mark.parametrize(
    ("values", "at"),
    [([], None), ([0, 0, 5, 5, 5, 0], 3), ([9, 0, 9, 9, 9], 3), ([1, 10, 9.5, 9.2, 2], 2)],
    ids=["nothing", "one stretch", "the longer of two", "about as high"],
)
def test_the_middle_of_the_highest_stretch(values: list[float], at: int | None) -> None:
    assert plateau_middle(values) == at
