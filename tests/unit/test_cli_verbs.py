"""The command line as its users meet it: help, misuse, errors, exit codes. Nothing here needs root."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from datapath.errors import RulesetError
from podlane.console import failing_clearly
from podlane.errors import LabError
from podlane.main import VERBS, main
from tc_core.errors import MissingFeatureError
from traffic_policy.errors import ConfigError, PolicyError, Problem


@pytest.fixture
def cli() -> CliRunner:
    return CliRunner()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("total: 10Mbit\nclasses: [{name: web, rate: 1Mbit, match: [{port: [80]}]}]\n")
    return path


def test_help_lists_every_verb_without_importing_any(cli: CliRunner) -> None:
    program = (
        "import sys; from click.testing import CliRunner; from podlane.main import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "heavy = {'trio', 'matplotlib', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb.name} " in done.stdout for verb in VERBS)
    assert done.stdout.strip() == cli.invoke(main, ["--help"]).output.strip()


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_help_with_an_example(cli: CliRunner, verb: str) -> None:
    done = cli.invoke(main, [verb, "--help"])
    assert done.exit_code == 0, done.output
    assert "Example" in done.output
    assert f"podlane {verb}" in done.output


def test_an_unknown_verb_names_the_known_ones(cli: CliRunner) -> None:
    done = cli.invoke(main, ["rnu"])
    assert done.exit_code == 2
    assert "There is no verb 'rnu'. The verbs are run, sidecar" in done.output


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["bud"], {"budgets"}),
        (["budgets", ""], {"list", "set", "remove"}),
        (["budgets", "set", "--per", ""], {"day", "month"}),
    ],
)
def test_a_shell_completes_verbs_and_options(words: list[str], found: set[str]) -> None:
    *before, last = words
    shown = ShellComplete(main, {}, "podlane", "_PODLANE_COMPLETE").get_completions(before, last)
    assert {each.value for each in shown} == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(cli: CliRunner, shell: str) -> None:
    done = cli.invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"_PODLANE_COMPLETE={shell}_complete" in done.stdout


def test_version(cli: CliRunner) -> None:
    done = cli.invoke(main, ["version"])
    assert done.exit_code == 0
    assert done.output.startswith("podlane 0.")


def test_the_version_is_an_option_too(cli: CliRunner) -> None:
    assert cli.invoke(main, ["--version"]).output == cli.invoke(main, ["version"]).output


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)], ids=["unset", "set"])
def test_no_color_is_respected(cli: CliRunner, policy: Path, no_color: str, coloured: bool) -> None:
    done = cli.invoke(main, ["explain", "--policy", str(policy)], color=True, env={"NO_COLOR": no_color})
    assert ("\x1b[" in done.output) is coloured


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "true"], "Missing option '--policy'"),
        (["--policy", "{policy}"], "Missing argument 'COMMAND"),
        (["--policy", "{policy}", "--totl", "10Mbit", "--", "true"], "No such option '--totl'"),
        (["--policy", "{policy}", "--total", "10", "--", "true"], "has no unit"),
        (["--policy", "{policy}", "--name", "a/b", "--", "true"], "is not a name"),
        (["--policy", "{policy}", "--user", "no-such-user", "--", "true"], "There is no user 'no-such-user'"),
        (["--policy", "/nowhere/policy.yaml", "--", "true"], "cannot be read: No such file or directory"),
        (["--policy", "{policy}", "--total", "100kbit", "--", "true"], "Cannot guarantee"),
    ],
    ids=[
        "no policy",
        "no command",
        "unknown option",
        "total without unit",
        "bad name",
        "unknown user",
        "unreadable",
        "total too small",
    ],
)
def test_run_misused_ends_with_2(cli: CliRunner, policy: Path, arguments: list[str], words: str) -> None:
    done = cli.invoke(main, ["run", *(a.replace("{policy}", str(policy)) for a in arguments)])
    assert done.exit_code == 2, done.output
    assert words in done.output


@pytest.mark.parametrize("verb", [["run"], ["classify"]], ids=lambda verb: verb[0])
def test_what_the_sidecar_cannot_do_is_refused_before_anything_is_touched(
    cli: CliRunner, tmp_path: Path, verb: list[str]
) -> None:
    path = tmp_path / "prio.yaml"
    path.write_text("total: 10Mbit\nshaper: prio\nclasses: [{name: a, match: {mark: 1}}]")
    done = cli.invoke(main, [*verb, "--policy", str(path), "no-such-file-or-command"])
    assert done.exit_code == 2, done.output
    assert "prio.yaml: 2 problems" in done.output
    assert "Write shaper: htb, or use podlane tc." in done.output
    assert "application or name, or use podlane tc." in done.output


def test_run_without_root_says_to_use_sudo_and_why(
    cli: CliRunner, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = cli.invoke(main, ["run", "--policy", str(policy), "--", "curl", "-O", "x"])
    assert done.exit_code == 125
    assert "needs root" in done.output
    assert "sudo podlane run ... -- curl" in done.output


def test_what_follows_the_command_belongs_to_it(cli: CliRunner, policy: Path) -> None:
    # --total without a unit would be refused if `run` read it.
    done = cli.invoke(main, ["run", "--policy", str(policy), "no-such-command", "--total", "10"])
    assert "no unit" not in done.output
    assert done.exit_code in (125, 127)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PolicyError([Problem("total", "It is wrong.", "Mend it.")]), 2, "total: It is wrong. Mend it."),
        (ConfigError("--port: no."), 2, "--port: no."),
        (RulesetError("The rules differ."), 125, "The rules differ."),
        (MissingFeatureError("There is no HTB.", "modprobe sch_htb"), 125, "There is no HTB. modprobe sch_htb"),
        (LabError("ip failed."), 125, "ip failed."),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["policy", "setting", "sidecar", "kernel feature", "lab", "Ctrl-C"],
)
def test_errors_become_their_text_and_an_exit_code(cli: CliRunner, error: BaseException, code: int, words: str) -> None:
    @click.command()
    def verb() -> None:
        with failing_clearly(125):
            raise error

    done = cli.invoke(verb, [])
    assert done.exit_code == code
    assert done.output == (f"podlane: {words}\n" if words else "")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), failing_clearly():
        _ = 1 / 0
