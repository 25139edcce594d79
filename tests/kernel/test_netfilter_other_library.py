"""The contract of python-iptables with the libxtables that this machine lacks: tools/other-libxtables runs it.

The first time a root of another Debian release is made, for about a minute; the tests in it take a quarter of one.
"""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from netfilter_pod import NO_PYTHON_IPTABLES, installed_backends, legacy_release

from datapath.netfilter.backend import BackendKind
from podlane.netns import Lab

ROOT = Path(__file__).parents[2]
IMPOSSIBLE = 77
"""The tool's exit code where it cannot work at all."""
FIXED_IN = (1, 8, 11)
"""The libxtables whose structures differ from those that python-iptables knows."""
PROOFS = {
    "test_it_knows_the_library",
    "test_what_is_installed_reads_back_as_what_was_wanted[python-example]",
    "test_what_is_installed_reads_back_as_what_was_wanted[python-many ports]",
    "test_a_restarted_process_adopts_what_is_there[python]",
    "test_removing_leaves_no_trace_and_touches_nothing_else[python-None]",
    "test_a_failure_in_the_middle_leaves_the_old_rules[python-IPv4]",
    "test_a_failure_in_the_middle_leaves_the_old_rules[python-IPv6]",
    "test_what_one_way_has_installed_the_other_adopts_changes_and_removes[python]",
    "test_the_kernel_has_the_same_rules_as_by_the_programs",
}
"""Without these a run proves nothing, even if all that was selected has passed."""


@pytest.mark.root
@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.skipif(BackendKind.PYTHON not in installed_backends(), reason=NO_PYTHON_IPTABLES)
def test_the_contract_holds_with_the_libxtables_that_this_machine_lacks(lab: Lab, tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "tools" / "other-libxtables", "--output", tmp_path], capture_output=True, text=True, check=False
    )
    if done.returncode == IMPOSSIBLE:
        pytest.skip(done.stderr.strip())
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    cases = list(ElementTree.parse(tmp_path / "junit.xml").iter("testcase"))
    assert not [case for case in cases if case.find("skipped") is not None]
    assert {case.get("name") for case in cases} >= PROOFS
    (version,) = {p.get("value") for case in cases for p in case.iter("property") if p.get("name") == "libxtables"}
    assert version
    there = tuple(int(number) for number in version.split("."))
    assert (there >= FIXED_IN) != (legacy_release(lab.host("pod")) >= FIXED_IN)
