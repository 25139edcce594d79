"""Debian's own kernel, under emulation: the kernel tests that tests/stock/*.txt select, run there by tools/stock-kernel.

One file of pytest arguments is one emulated machine. What they select is what can differ between kernels: ``fw``
filters and the queues that the machine that runs the tests may lack, the kernel's answers that the model relies on,
rules and TPROXY. Not selected: 100 Mbit/s and more, which an emulated processor cannot send, and what depends on
Python alone. Results and consoles stay in out/stock-kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.stock_kernel, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "out" / "stock-kernel"
NEXT_RELEASE = "trixie"
"""Of Debian, whose kernel has to take the programs, too: its verifier is another one."""
MACHINES = sorted(path.stem for path in Path(__file__).parent.glob("*.txt"))
EVERY_TIME = "shaping"
"""The machine that CI boots; the others are nightly."""
IMPOSSIBLE = 77
"""The tool's exit code where emulation cannot work at all."""
PROOFS = {
    "shaping": {
        "test_what_stock_kernels_have_is_found_and_chosen",
        "test_a_policy_becomes_fw_filters_and_fq_codel_queues",
        "test_packets_reach_the_class_of_their_mark_through_fw",
        "test_ceilings_hold_at_once_over_a_long_path",
        "test_a_guarantee_holds_and_the_rest_is_borrowed",
        "test_the_second_apply_sends_nothing[real, fw and fq_codel]",
        "test_the_shell_makes_the_same_changes[fw and fq_codel]",
        "test_podlane_check_finds_everything",
    },
    "queues": {
        *(
            f"test_a_qdisc_from_beginning_to_end[real, {kind} at {place}: usual]"
            for kind in ("tbf", "prio", "fq_codel", "bfifo", "sfq", "cake", "netem")
            for place in ("root", "leaf")
        ),
        *(
            f"test_the_second_time_nothing_changes_and_clearing_leaves_no_trace[{policy}, real]"
            for policy in ("htb", "tbf", "prio", "cake", "rehearsal", "fair", "queues", "ingress")
        ),
        "test_what_arrives_passes_the_queues_of_an_ifb",
        "test_what_the_sidecar_makes_is_found_again_and_leaves_no_trace[connmark, real]",
        "test_strict_priority_lets_the_first_go_first_and_holds_it_to_its_ceil",
        "test_a_rehearsed_delay_is_felt[htb]",
        "test_classes_of_htb_and_bands_of_prio_alike[prio]",
        "test_odd_packets_get_the_class_that_the_rules_mean",
        "test_what_an_ifb_receives_is_found_from_the_other_side",
        "test_what_the_docs_show_is_what_happens[Strict priority: `prio`]",
    },
    "programs": {
        "test_programs_choose_the_class_of_a_name",
        "test_the_programs_of_the_nodes_end_are_taken",
        "test_what_real_programs_send_first[192.0.2.1-curl-http]",
        "test_packets_without_names",
        "test_names_of_every_shape",
        "test_names_of_services",
    },
    "capture": {
        "test_a_named_request_goes_by_tproxy_into_its_fw_class",
        "test_what_content_may_decide_arrives_with_its_original_destination[IPv4-nft]",
        "test_what_content_may_decide_arrives_with_its_original_destination[IPv6-legacy]",
        "test_a_live_connection_follows_the_policy[IPv4]",
        "test_every_kind_of_connection_is_in_its_class",
        "test_downloads_are_told_by_the_marks_of_their_connections[relay]",
        "test_downloads_are_told_by_the_marks_of_their_connections[step-aside]",
        "test_datagrams_that_are_sent_in_one_packet_are_looked_at_one_by_one[relay]",
    },
}
"""Without these a run proves nothing, even if all that it selected has passed."""


@dataclass(frozen=True)
class Run:
    """What the tool left behind in a folder."""

    folder: Path
    machines: list[str]
    status: int
    complaints: str
    """What the tool said on standard error: about packages, downloads, and what is impossible."""

    def console(self, machine: str) -> str:
        """The last lines that a machine printed."""
        log = self.folder / machine / "console.log"
        return "\n".join(log.read_text().splitlines()[-60:]) if log.exists() else "It did not start."

    def results(self, machine: str) -> dict[str, ElementTree.Element]:
        """Test cases by name; empty when the machine did not come as far as a report."""
        report = self.folder / machine / "junit.xml"
        if not report.exists():
            return {}
        return {case.attrib["name"]: case for case in ElementTree.parse(report).iter("testcase")}


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    """All machines whose tests are selected, at the same time."""
    chosen = {item.callspec.params["machine"] for item in request.session.items if _boots(item)}
    return _booted(OUTPUT, sorted(chosen))


def _booted(folder: Path, machines: list[str], *options: str) -> Run:
    if os.geteuid():
        pytest.skip("needs root to install QEMU: run the tests by `make test`, or as root")
    # Reports of an earlier run must not pass for this one's.
    shutil.rmtree(folder, ignore_errors=True)
    chosen = (word for name in machines for word in ("--machine", name))
    done = subprocess.run(
        [ROOT / "tools" / "stock-kernel", "--output", folder, *chosen, *options],
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode == IMPOSSIBLE:
        pytest.skip(done.stderr.splitlines()[-1])
    return Run(folder, machines, done.returncode, done.stderr)


def _boots(item: pytest.Item) -> bool:
    return item.path == Path(__file__) and "machine" in getattr(item, "fixturenames", ())


@pytest.mark.parametrize(
    "machine",
    [pytest.param(name, marks=() if name == EVERY_TIME else pytest.mark.nightly) for name in MACHINES],
)
def test_the_selected_tests_pass_on_a_stock_kernel(
    run: Run, machine: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("stock kernel", _passed(run, machine))


@pytest.mark.nightly
def test_the_programs_are_taken_by_the_next_release(record_property: Callable[[str, object], None]) -> None:
    run = _booted(OUTPUT.with_name(f"stock-kernel-{NEXT_RELEASE}"), ["programs"], "--suite", NEXT_RELEASE)
    record_property("stock kernel", _passed(run, "programs"))


def _passed(run: Run, machine: str) -> str:
    """What has, in a line; fails if something has not."""
    results = run.results(machine)
    assert results, f"no report (exit code {run.status})\n{run.complaints}\n{run.console(machine)}"
    bad = [
        f"{case.attrib['name']}: {outcome.tag}\n{outcome.text or outcome.attrib.get('message', '')}"
        for case in results.values()
        for outcome in case
        if outcome.tag in ("failure", "error", "skipped")
    ]
    assert not bad, "\n\n".join(bad)
    assert PROOFS[machine] <= results.keys(), f"did not run: {PROOFS[machine] - results.keys()}"
    kernel = (run.folder / machine / "kernel").read_text().strip()
    seconds = sum(float(case.attrib["time"]) for case in results.values())
    return f"Linux {kernel}, {machine}: {len(results)} tests passed in {seconds:.0f} s"


def test_nothing_else_went_wrong(run: Run) -> None:
    """Exit codes of machines and of pytest in them, which the reports may not show: a time-out, a crash at the end."""
    assert run.status == 0, "\n".join([run.complaints, *map(run.console, run.machines)])
