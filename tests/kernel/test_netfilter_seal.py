"""Rules that nobody has changed are not read again: nftables counts its transactions."""

from __future__ import annotations

from pathlib import Path

import pytest
from netfilter_pod import Pod, ruleset

from datapath.errors import RulesetError
from datapath.netfilter.backend import BackendKind
from datapath.netfilter.capture_settings import CaptureSettings
from datapath.netfilter.install import Installer
from datapath.netfilter.restore import RestoreBackend, Tools, installed_programs
from datapath.netfilter.rules import Family
from datapath.netfilter.select import BackendChooser, why_not
from podlane.netns import Lab
from traffic_policy.settings import Datapath

pytestmark = pytest.mark.root

ASIDE = CaptureSettings(datapath=Datapath.STEP_ASIDE, interface="eth0")
RULES = ruleset({"sni": ["api.example.com"]}, {"port": 22}, settings=ASIDE)
OTHERS = ruleset({"port": 23}, settings=ASIDE)


class Watched:
    """iptables-nft whose runs are noted in a file."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "runs"
        real = installed_programs()[BackendKind.NFT]
        tools = {}
        for family in Family:
            save, restore = (folder / f"{family.value}-{what}" for what in ("save", "restore"))
            for script, program in ((save, real.tools[family].save), (restore, real.tools[family].restore)):
                script.write_text(f'#!/bin/sh\necho {script.name} >> {self._log}\nexec {program} "$@"\n')
                script.chmod(0o755)
            tools[family] = Tools(str(save), str(restore))
        self.backend = RestoreBackend(BackendKind.NFT, tools)

    def runs(self) -> list[str]:
        """Since the last call."""
        found = self._log.read_text().split() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return found


@pytest.fixture
def nft(tmp_path: Path) -> Watched:
    programs = installed_programs()
    if BackendKind.NFT not in programs or why_not(programs[BackendKind.NFT]):
        pytest.skip("iptables-nft does not work here")
    if programs[BackendKind.NFT].generation() is None:
        pytest.skip("this kernel does not tell")
    return Watched(tmp_path)


@pytest.fixture
def pod(lab: Lab, nft: Watched) -> Pod:
    return Pod(lab.host("pod"), nft.backend)


def missing(pod: Pod) -> list[str]:
    with pod.host.namespace.entered():
        return pod.installer.missing_rules(RULES)


def adopt(pod: Pod, seal_of: Pod) -> None:
    """A further installer, as another process would make it."""
    pod.installer = Installer(pod.backend, seal_of.installer.seal)


def test_what_nobody_has_changed_is_adopted_without_any_program(pod: Pod, nft: Watched) -> None:
    pod.install(RULES)
    assert "4-restore" in nft.runs()
    state = pod.snapshot()
    nft.runs()
    adopt(pod, pod)
    report = pod.install(RULES)
    assert (report.changed, report.adopted) == (False, True)
    assert missing(pod) == []
    assert nft.runs() == []
    seal = pod.installer.seal
    assert seal is not None
    with pod.host.namespace.entered():
        assert BackendChooser().choose(seal).kind is BackendKind.NFT
    assert pod.install(OTHERS).changed, "other rules are written"
    assert nft.runs()
    assert pod.snapshot() != state


@pytest.mark.parametrize(
    "damage", ["-t mangle -F PODLANE-CLASSES", "-t mangle -D OUTPUT 1", "-t mangle -I OUTPUT 1 -j ACCEPT"]
)
def test_what_somebody_has_changed_is_found_and_put_back(pod: Pod, nft: Watched, damage: str) -> None:
    pod.install(RULES)
    state = pod.snapshot()
    pod.iptables(Family.V4, damage)
    adopt(pod, pod)
    nft.runs()
    assert pod.install(RULES).changed
    assert "4-restore" in nft.runs()
    if "ACCEPT" in damage:
        pod.iptables(Family.V4, "-t mangle -D OUTPUT -j ACCEPT")
    assert pod.snapshot() == state
    assert missing(pod) == []
    pod.iptables(Family.V4, "-t mangle -F PODLANE-CLASSES")
    assert missing(pod) == ["IPv4 chain PODLANE-CLASSES"], "also while it works"


def test_a_seal_is_worth_nothing_in_another_namespace(pod: Pod, nft: Watched, lab: Lab) -> None:
    other = Pod(lab.host("other"), nft.backend)
    pod.install(RULES)
    other.install(RULES)
    other.remove()
    other.install(OTHERS)
    one, two = pod.installer.seal, other.installer.seal
    assert one is not None
    assert two is not None
    while two.generation.number > pod_generation(pod):
        pod.iptables(Family.V4, "-t mangle -Z")
    adopt(other, pod)
    nft.runs()
    assert other.install(RULES).changed
    assert nft.runs()


def pod_generation(pod: Pod) -> int:
    with pod.host.namespace.entered():
        found = pod.backend.generation()
    assert found is not None
    return found.number


def test_rules_that_were_read_back_once_are_only_written_elsewhere(pod: Pod, nft: Watched, lab: Lab) -> None:
    proven: set[str] = set()
    pod.installer = Installer(nft.backend, proven=proven)
    pod.install(RULES)
    assert nft.runs().count("4-save") == 1
    other = Pod(lab.host("other"), nft.backend)
    other.installer = Installer(nft.backend, proven=proven)
    other.install(RULES)
    assert nft.runs() == ["4-restore", "6-restore"]
    assert other.snapshot().keys() == pod.snapshot().keys()
    assert [other.save(family) for family in Family] == [pod.save(family) for family in Family]
    third = Pod(lab.host("third"), nft.backend)
    third.install(OTHERS)
    third.installer = Installer(nft.backend, proven=proven)
    nft.runs()
    third.install(RULES)
    assert nft.runs().count("4-save") == 2, "there were others before"


def test_a_family_that_comes_later_is_missed(pod: Pod) -> None:
    def disable(value: str) -> None:
        for interface in ("lo", "default"):
            pod.host.namespace.write_sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", value)

    disable("1")
    pod.install(RULES)
    assert missing(pod) == []
    disable("0")
    assert missing(pod)
    pod.install(RULES)
    assert missing(pod) == []


def test_that_nothing_of_ours_is_there_is_known_to_the_next_one_until_somebody_writes(pod: Pod, nft: Watched) -> None:
    assert not pod.remove()
    assert pod.installer.seal is not None
    adopt(pod, pod)
    assert not pod.remove()
    assert nft.runs() == [], "nobody has written any rule"
    empty = pod.snapshot()
    other = Pod(pod.host, pod.backend)
    other.install(RULES)
    adopt(pod, pod)
    nft.runs()
    assert pod.remove()
    assert nft.runs()
    assert pod.snapshot().keys() == empty.keys()
    assert not pod.present()


def test_routes_of_rules_that_could_not_be_written_are_removed_again(pod: Pod, nft: Watched) -> None:
    tools = {family: Tools(nft.backend.tools[family].save, "/bin/false") for family in Family}
    pod.backend = RestoreBackend(BackendKind.NFT, tools)
    pod.restart()
    pod.remove()
    assert pod.installer.seal is not None, "there is nothing"
    with pytest.raises(RulesetError):
        pod.install(ruleset({"sni": ["api.example.com"]}))
    assert pod.present(), "its routes come first"
    assert pod.remove()
    assert not pod.present()
