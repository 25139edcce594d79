"""What only python-iptables can do wrong, and which way is taken; the contract that it shares is in test_netfilter_install."""

from __future__ import annotations

import fcntl
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from netfilter_pod import NO_PYTHON_IPTABLES, Pod, installed_backends, legacy_release, ruleset
from runs import RunHost
from sidecars import refused_sidecar, start_sidecar
from webserver import start_nginx

from datapath.errors import RulesetError
from datapath.netfilter.backend import Backend, BackendKind
from datapath.netfilter.features import probe, python_iptables
from datapath.netfilter.render import difference
from datapath.netfilter.restore import RestoreBackend, installed_programs
from datapath.netfilter.rules import Family
from datapath.netfilter.select import detect_backend, why_not
from podlane.netns import Lab, PodNodeServer
from traffic_policy.settings import IptablesSetting

RULES = ruleset(
    {"sni": ["api.example.com"]},
    {"host": "h.example", "port": [80, "8000-8100"]},
    {"port": 22, "cidr": ["10.0.0.0/9", "fd00::/8"]},
    {"protocol": "icmp"},
)
OTHERS = ruleset({"port": [1, 2, "3-9"], "protocol": "udp"}, {"cidr": ["192.0.2.1/32", "2001:db8::/33"]})

BACKENDS = installed_backends()

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def backend() -> Backend:
    """python-iptables, where it is installed and the kernel has legacy tables."""
    if BackendKind.PYTHON not in BACKENDS:
        pytest.skip(NO_PYTHON_IPTABLES)
    found = BACKENDS[BackendKind.PYTHON]
    if reason := why_not(found):
        pytest.skip(reason)
    return found


def test_it_knows_the_library(backend: Backend, lab: Lab, record_property: Callable[[str, object], None]) -> None:
    release = legacy_release(lab.host("pod"))
    assert ("1.8.11 or later" if release >= (1, 8, 11) else "before 1.8.11") in backend.description
    record_property("libxtables", ".".join(str(number) for number in release))


def test_the_kernel_has_the_same_rules_as_by_the_programs(backend: Backend, lab: Lab) -> None:
    ours, theirs = Pod(lab.host("python"), backend), Pod(lab.host("programs"), BACKENDS[BackendKind.LEGACY])
    for pod in (ours, theirs):
        pod.install(RULES)
    assert ours.snapshot() == theirs.snapshot()
    # The printed form leaves things out, such as how much of an interface's name is compared: look at the bytes, too.
    for pod in (ours, theirs):
        with pod.host.namespace.entered():
            for family in Family:
                assert difference(RULES.for_family(family), backend.installed(family)) == []


@pytest.mark.parametrize("first", ["python", "programs"])
def test_what_one_way_has_installed_the_other_adopts_changes_and_removes(
    backend: Backend, lab: Lab, first: str
) -> None:
    host = lab.host("pod")
    python, programs = Pod(host, backend), Pod(host, BACKENDS[BackendKind.LEGACY])
    one, other = (python, programs) if first == "python" else (programs, python)
    one.install(RULES)
    report = other.install(RULES)
    assert (report.changed, report.adopted) == (False, True)
    assert other.install(OTHERS).changed
    assert not one.install(OTHERS).changed
    assert other.remove()
    assert not one.present()


FIRST_USE = """
from netfilter_pod import ruleset
from datapath.netfilter.backend import legacy_tables
from datapath.netfilter.install import Installer
from datapath.netfilter.select import python_backend
from datapath.netfilter.rules import Family
installer = Installer(python_backend())
print(installer.present(), [legacy_tables(family) for family in Family])
installer.install(ruleset({"host": "h.example"}))
print(installer.present(), [legacy_tables(family) for family in Family])
"""


def test_no_other_table_comes_into_being(lab: Lab) -> None:
    # In a process of its own: python-iptables remembers which tables there are.
    done = lab.host("pod").run(
        [sys.executable, "-c", FIRST_USE], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.stdout.splitlines()[0] == "False [(), ()]"
    assert done.stdout.splitlines()[-1] == "True [('mangle',), ('mangle',)]"


def test_each_thread_changes_the_namespace_it_is_in(backend: Backend, lab: Lab) -> None:
    pods = [Pod(lab.host(f"pod{number}"), backend) for number in range(3)]
    wanted = [RULES, OTHERS, RULES]

    def work(number: int) -> None:
        for rules in (OTHERS, RULES, wanted[number]):
            pods[number].install(rules)

    with ThreadPoolExecutor(len(pods)) as pool:
        list(pool.map(work, range(len(pods))))
    for pod, rules in zip(pods, wanted, strict=True):
        with pod.host.namespace.entered():
            for family in Family:
                assert difference(rules.for_family(family), backend.installed(family)) == []
    assert pods[1].remove()
    assert pods[0].present()
    assert not pods[1].present()


def test_nothing_is_printed(backend: Backend, lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    pod = Pod(lab.host("pod"), backend)
    with pod.host.namespace.entered():
        backend.apply(RULES.for_family(Family.V4), backend.installed(Family.V4))
        backend.apply(RULES.for_family(Family.V6), backend.installed(Family.V6))
    assert capfd.readouterr() == ("", "")


# --- which way ------------------------------------------------------------------------------------------------------


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder in which programs are found; there are none in it yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("datapath.netfilter.restore._SBIN", str(tmp_path))
    return tmp_path


def test_auto_takes_the_programs_where_they_are(backend: Backend, lab: Lab) -> None:
    with lab.host("pod").namespace.entered():
        assert detect_backend(IptablesSetting.AUTO).kind is not backend.kind
        assert detect_backend(IptablesSetting.RESTORE).kind is not backend.kind
        assert detect_backend(IptablesSetting.PYTHON).kind is backend.kind


@pytest.mark.usefixtures("only")
def test_auto_takes_python_iptables_where_there_are_no_programs(backend: Backend, lab: Lab) -> None:
    assert installed_programs() == {}
    with lab.host("pod").namespace.entered():
        assert detect_backend().kind is backend.kind


@pytest.mark.usefixtures("only")
def test_without_any_program_everything_capture_needs_is_found(lab: Lab) -> None:
    with lab.host("pod").namespace.entered():
        checks = {check.name: check for check in probe()}
    assert checks["iptables"].reason == "python-iptables is used"
    assert [check for check in checks.values() if not check.available] == []


def test_auto_finds_what_python_iptables_left_where_the_programs_cannot(backend: Backend, lab: Lab, only: Path) -> None:
    programs = BACKENDS[BackendKind.NFT]
    assert isinstance(programs, RestoreBackend)
    for tools in programs.tools.values():
        for program in (tools.save, tools.restore):
            (only / Path(program).name).symlink_to(Path(program).resolve())
    pod = Pod(lab.host("pod"), backend)
    with pod.host.namespace.entered():
        assert detect_backend().kind is BackendKind.NFT
        pod.installer.install(RULES)
        assert detect_backend().kind is backend.kind
        assert pod.installer.remove()
        assert detect_backend().kind is BackendKind.NFT


def test_what_a_killed_sidecar_left_in_other_tables_is_refused_and_removed(
    backend: Backend, lab: Lab, tmp_path: Path
) -> None:
    left = Pod(lab.host("pod"), BACKENDS[BackendKind.NFT])
    lab.link(left.host, "eth0", lab.host("node"), "eth0")
    left.install(RULES)
    with left.host.namespace.entered():
        assert detect_backend(IptablesSetting.AUTO).kind is BackendKind.NFT
        with pytest.raises(RulesetError, match=r"in the tables of iptables-nft.* podlane sidecar --cleanup"):
            detect_backend(IptablesSetting.PYTHON)
    policy = tmp_path / "policy.yaml"
    policy.write_text("total: 1Gbit\nclasses: [{name: web, rate: 10Mbit, match: {host: web.example.com}}]")
    code, said = refused_sidecar(left.host, "--policy", str(policy), "--interface", "eth0", "--iptables", "python")
    assert code == 1
    assert "in the tables of iptables-nft" in said
    assert not left.present()
    # So that the next try, as by a container that is started again, succeeds.
    with left.host.namespace.entered():
        assert detect_backend(IptablesSetting.PYTHON).kind is backend.kind


def test_podlane_check_says_what_it_is_and_what_it_reaches(backend: Backend) -> None:
    found = python_iptables()
    assert (found.name, found.available) == ("python-iptables", True)
    assert found.reason == f"{backend.description}, for legacy tables only: works"


def test_podlane_check_tries_the_way_that_it_is_asked_for(backend: Backend, lab: Lab) -> None:
    left = Pod(lab.host("pod"), BACKENDS[BackendKind.NFT])
    with left.host.namespace.entered():
        checks = probe(IptablesSetting.PYTHON)
        assert checks[0].reason.startswith(f"{backend} is used; also here: iptables-nft")
        assert [check for check in checks if not check.available] == []
        left.installer.install(RULES)
        (refused, *_) = probe(IptablesSetting.PYTHON)
        assert not refused.available
        assert "in the tables of iptables-nft" in refused.reason
        assert refused.remedy


CHECK = """
from datapath.netfilter.backend import legacy_tables
from datapath.netfilter.features import probe, python_iptables
from datapath.netfilter.rules import Family
print([check.available for check in probe()] == [True] * len(probe()))
print(python_iptables().reason.rpartition(": looks right, but was not tried")[1:])
print([legacy_tables(family) for family in Family])
"""


def test_podlane_check_leaves_no_table_where_it_may_not_make_a_namespace(lab: Lab) -> None:
    limits = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = lab.host("pod").run(["setpriv", *limits, sys.executable, "-c", CHECK])
    available, tried, tables = done.stdout.splitlines()
    assert available == "True"
    assert ": looks right, but was not tried" in tried
    assert tables == "[(), ()]"


DETECT = """
from sidecar.errors import PodlaneError
from datapath.netfilter.install import IptablesSetting, detect_backend
from tc_core.errors import MissingFeatureError
try:
    print(detect_backend(IptablesSetting.PYTHON))
except (MissingFeatureError, PodlaneError) as error:
    print(error)
"""


def test_without_its_library_the_error_names_the_packages(lab: Lab) -> None:
    environment = {**os.environ, "PYTHON_IPTABLES_XTABLES_VERSION": "99"}
    done = lab.host("pod").run([sys.executable, "-c", DETECT], env=environment)
    assert re.fullmatch(
        r"python-iptables cannot load libxtables\. .*libxtables12, libip4tc2, libip6tc2.*\n", done.stdout
    )


def test_without_raw_sockets_the_error_names_the_capability(lab: Lab) -> None:
    limits = ["--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    done = lab.host("pod").run(["setpriv", *limits, sys.executable, "-c", DETECT])
    assert "CAP_NET_RAW as well as CAP_NET_ADMIN: add the capability" in done.stdout


def test_a_lock_that_somebody_holds_is_waited_for_and_then_named(
    backend: Backend, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    monkeypatch.setattr("datapath.netfilter.python_iptables.backend.LOCK_WAIT", 0.05)
    pod = Pod(lab.host("pod"), backend)
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RulesetError, match=r"Another program has held .*lock for .*XTABLES_LOCKFILE"):
            pod.install(RULES)
    assert pod.install(RULES).changed


def test_a_sidecar_captures_by_it_and_leaves_nothing(backend: Backend, topology: PodNodeServer, tmp_path: Path) -> None:
    start_nginx(topology.server, tmp_path / "nginx")
    policy = "total: 1Gbit\nclasses: [{name: web, rate: 10Mbit, match: {host: web.example.com}}]"
    sidecar = start_sidecar(topology.pod, policy, tmp_path, "--iptables", "python")
    topology.pod.run(["curl", "-sS", "-f", "-H", "Host: web.example.com", f"http://{topology.server_ipv4}/who"])
    assert sidecar.connections("web") == {"http1": 1}
    assert "backend=python-iptables" in re.sub(r"\x1b\[\d*m", "", sidecar.log.read_text())
    assert sidecar.stop() == 0
    assert not Pod(topology.pod, backend).present()


def test_a_run_installs_by_it(runs: RunHost) -> None:
    before = runs.remains()
    options = ["--iptables", "python", "--user", "root", "--log-level", "info"]
    done = runs.run(["iptables-legacy-save", "-t", "mangle"], options)
    assert done.returncode == 0, done.stderr
    assert "-A PODLANE-PRE -i lo -p tcp" in done.stdout
    assert "python-iptables" in done.stderr
    assert runs.remains() == before
