"""``podlane demo``: what it refuses before anything is made, and the configuration it gives to its servers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from datapath.netfilter.features import Check
from podlane.demo import command as verb
from podlane.demo import programs, requirements
from podlane.demo.clients import command, conversation_command
from podlane.demo.parts import BOTH_WAYS, UPLOADS
from podlane.demo.recording import Recording
from podlane.demo.scenario import TransferKind, make_scenario
from podlane.demo.servers import nginx_config
from podlane.errors import DemoError
from tc_core.probe import features
from tc_core.probe.capability import ALL_FEATURES, HTB, IFB, Feature, absent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "demo.pdf"], "ends in .svg or .png"),
        (["--output", "demo"], "ends in .svg or .png"),
        (["--seconds", "3"], "is not in the range"),
        (["--seconds", "many"], "is not a valid float"),
        (["--seconds", "12"], "Give at least 19 for what --part chooses, or choose one part"),
        (["--part", "uploads", "--agent"], "The agent's demo has one part. Leave --part out."),
        (["--part", "quick"], "'all', 'uploads', 'both-ways'"),
    ],
    ids=["other format", "no format", "too short", "not a number", "too short for all", "two parts", "no such part"],
)
def test_wrong_options_exit_with_2(options: list[str], words: str) -> None:
    result = CliRunner().invoke(verb.demo, options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_an_output_below_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(verb.demo, ["--output", str(tmp_path / "file" / "new" / "demo.svg")])
    assert result.exit_code == 2
    assert f"{tmp_path / 'file'} is not a folder" in result.stderr


def test_an_output_where_nothing_can_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write wherever modes forbid it; what stops root is a read-only file system.
    monkeypatch.setattr(verb.os, "access", lambda path, mode: (path, mode) != (tmp_path, verb.os.W_OK))
    result = CliRunner().invoke(verb.demo, ["--output", str(tmp_path / "new" / "demo.svg")])
    assert result.exit_code == 2
    assert f"nothing can be written to {tmp_path}" in result.stderr


def test_without_root_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb.os, "geteuid", lambda: 1000)
    result = CliRunner().invoke(verb.demo, [])
    assert result.exit_code == 1
    assert "sudo podlane demo" in result.stderr


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb.os, "geteuid", lambda: 0)
    monkeypatch.setattr(programs, "find_tool", lambda name: None if name in ("nginx", "dd", "cat") else f"/bin/{name}")
    result = CliRunner().invoke(verb.demo, [])
    assert result.exit_code == 1
    assert "nginx, dd, cat are not installed" in result.stderr
    assert "apt-get install nginx-light coreutils" in result.stderr


def test_without_matplotlib_there_is_no_plot_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "_can_draw", lambda: False)
    verb._draw(Recording(make_scenario(UPLOADS)), tmp_path / "demo.svg")
    assert list(tmp_path.iterdir()) == []


def without(monkeypatch: pytest.MonkeyPatch, **lacking: Feature) -> None:
    """Let the kernel lack something."""
    monkeypatch.setattr(features, "probe", lambda: replace(ALL_FEATURES, **lacking))


def test_a_part_that_the_kernel_cannot_do_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, ifb=absent(IFB, "Operation not supported", 95))
    assert verb._possible([UPLOADS, BOTH_WAYS]) == [UPLOADS]
    said = capsys.readouterr().err
    assert "the part both-ways is left out" in said
    assert "modprobe ifb" in said
    with pytest.raises(DemoError, match="modprobe ifb"):
        verb._possible([BOTH_WAYS])


def test_a_kernel_that_cannot_shape_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, htb=absent(HTB, "Operation not supported", 95))
    with pytest.raises(DemoError, match="cannot shape"):
        verb._possible([UPLOADS, BOTH_WAYS])


LEFT_OUT = {
    "no aioquic": (None, Check("step-aside", True, "works"), "aioquic is not installed. To have it: pip install"),
    "no queue": ("there", Check("step-aside", False, "No NFQUEUE.", "Load it."), "No NFQUEUE. Load it."),
}


@pytest.mark.parametrize(("found", "check", "why"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_quic_that_cannot_be_shown_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: str | None, check: Check, why: str
) -> None:
    without(monkeypatch)
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda _name: found)
    monkeypatch.setattr(requirements, "probe", lambda: check)
    uploads, both_ways = verb._possible([UPLOADS, BOTH_WAYS])
    assert uploads is UPLOADS
    assert requirements.quic_lanes(BOTH_WAYS) == ("live",)
    assert requirements.quic_lanes(both_ways) == ()
    assert len(both_ways.lanes) == len(BOTH_WAYS.lanes) - 1
    assert f"QUIC is left out (the lane live). {why}" in capsys.readouterr().err


def test_quic_that_can_be_shown_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    without(monkeypatch)
    monkeypatch.setattr(requirements, "probe", lambda: Check("step-aside", True, "works"))
    assert verb._possible([BOTH_WAYS]) == [BOTH_WAYS]
    assert capsys.readouterr().err == ""


def test_help_has_an_example() -> None:
    assert "sudo podlane demo --output out/demo.svg" in CliRunner().invoke(verb.demo, ["--help"]).output


def test_every_server_listens_on_the_one_address_and_writes_only_to_its_folder() -> None:
    config = nginx_config(Path("/folder"), "192.0.2.1", Path("/folder/c.pem"), Path("/folder/k.pem"))
    listens = [line.split()[1].rstrip(";") for line in config.splitlines() if line.strip().startswith("listen")]
    assert listens == ["192.0.2.1:443", "192.0.2.1:80", "192.0.2.1:8080"]
    paths = [word.rstrip(";") for line in config.splitlines() for word in line.split() if word[:1] == "/" != word]
    assert paths
    assert all(path.startswith("/folder/") for path in paths)


def test_clients_verify_the_certificate_and_all_go_to_the_one_server() -> None:
    commands = {lane.name: command(lane, "192.0.2.1", Path("/folder/c.pem")) for lane in UPLOADS.lanes}
    for name in ("api", "video", "web", "events"):
        assert "--insecure" not in commands[name]
        assert "192.0.2.1" in " ".join(commands[name])
    assert "--http2" in commands["api"]
    assert commands["backup"][-1] == "exec cat > /dev/tcp/192.0.2.1/8730"


def test_downloads_are_counted_and_thrown_away() -> None:
    commands = {lane.name: command(lane, "192.0.2.1", Path("/folder/c.pem")) for lane in BOTH_WAYS.lanes}
    for name in ("shop", "media", "updates", "dataset"):
        assert commands[name][commands[name].index("--output") + 1] == "/dev/null"
        assert "%{size_download}" in commands[name]
        assert "192.0.2.1" in " ".join(commands[name])


def test_the_quic_client_goes_to_the_one_server_by_name_and_verifies_it() -> None:
    argv = command(BOTH_WAYS.lanes[4], "192.0.2.1", Path("/folder/c.pem"))
    assert argv[-4:] == ["192.0.2.1", "443", "live.shop.test", "/folder/c.pem"]


def test_requests_of_one_connection_are_one_command() -> None:
    lanes = [lane for lane in BOTH_WAYS.lanes if lane.kind is TransferKind.REQUEST]
    argv = conversation_command(lanes, [Path("/a"), Path("/b")], "192.0.2.1", Path("/folder/c.pem"))
    assert argv.count("--next") == 1
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "--upload-file"] == ["/a", "/b"]
    assert [word for word in argv if word.startswith("Host:")] == ["Host: reports.shop.test", "Host: orders.shop.test"]


def test_the_plot_of_the_second_part_lies_beside_that_of_the_first() -> None:
    assert verb._plot_of(UPLOADS, Path("out/x.svg")) == Path("out/x.svg")
    assert verb._plot_of(BOTH_WAYS, Path("out/x.svg")) == Path("out/x-both-ways.svg")
