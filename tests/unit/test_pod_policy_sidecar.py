"""What the sidecar takes from a Pod's annotations, at its start and while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from downward import Volume, format_map

from sidecar.config.loader import Wanted, attempt, contents, load_wanted, on_failure_asked, reload_wanted, sources
from sidecar.config.settings import SidecarSettings, load_settings
from traffic_policy.errors import ConfigError
from traffic_policy.pod.annotations import shared_policy_file
from traffic_policy.ports import PortRange
from traffic_policy.settings import Datapath, LogLevel, Mesh, OnFailure
from traffic_policy.units import Duration, Rate

API = "[{name: api, rate: 1Mbit, match: {port: 80}}]"
SHARED = "total: 50Mbit\nclasses: [{name: web, rate: 5Mbit, match: {port: 443}}]\n"
INJECTED = {"status": "{}"}
"""In the annotations of a Pod that the injector has made."""


def annotations(**said: str) -> str:
    return format_map({f"podlane.io/{key.replace('_', '-')}": value for key, value in said.items()})


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "pod", "annotations", annotations(egress_bandwidth="10M"))


@pytest.fixture
def given(volume: Volume, tmp_path: Path) -> Callable[..., SidecarSettings]:
    def make(*, shared: str | None = None, **options: object) -> SidecarSettings:
        if shared is not None:
            options["shared_policy"] = Volume(tmp_path / "policy", shared_policy_file("lanes"), shared).folder
        return load_settings({"annotations": volume.file, **options})

    return make


Given = Callable[..., SidecarSettings]


def test_what_annotations_do_not_say_is_as_it_was_given(given: Given) -> None:
    settings = given(detection_timeout="2s", exclude_outbound_ports=(PortRange(25, 25),), log_level="error")
    wanted = load_wanted(settings)
    assert wanted.settings == settings
    assert wanted.policy.total == Rate.parse("10Mbit")


def test_what_annotations_say_wins(given: Given, volume: Volume) -> None:
    settings = given(detection_timeout="2s", exclude_outbound_ports=(PortRange(25, 25),), log_level="error")
    said = {"detection_timeout": "3s", "datapath": "step-aside", "log_level": "debug"}
    volume.write(annotations(egress_bandwidth="10M", exclude_outbound_ports="80,90-99", exclude_outbound_cidrs="::/0", exclude_inbound_ports="7", exclude_inbound_cidrs="fd00::/8", **said))  # fmt: skip
    got = load_wanted(settings).settings
    assert (got.detection_timeout, got.datapath, got.log_level) == (
        Duration.parse("3s"),
        Datapath.STEP_ASIDE,
        LogLevel.DEBUG,
    )
    assert got.exclude_outbound_ports == (PortRange(80, 80), PortRange(90, 99))
    assert got.exclude_outbound_cidrs == (ip_network("::/0"),)
    assert got.exclude_inbound_ports == (PortRange(7, 7),)
    assert got.exclude_inbound_cidrs == (ip_network("fd00::/8"),)


@pytest.mark.parametrize(
    ("option", "said", "asked"),
    [
        ("open", {"on_failure": "closed", "egress_bandwidth": "many"}, OnFailure.CLOSED),
        ("closed", {"on_failure": "open", "egress_bandwidth": "many"}, OnFailure.OPEN),
        ("closed", {"egress_bandwidth": "many"}, OnFailure.CLOSED),
        ("closed", {"on_failure": "ajar"}, OnFailure.CLOSED),
    ],
    ids=["closed", "open", "not said", "nonsense"],
)
def test_what_is_asked_for_in_case_of_failure_counts_though_the_rest_cannot_be_used(
    given: Given, volume: Volume, option: str, said: dict[str, str], asked: OnFailure
) -> None:
    settings = given(on_failure=option)
    volume.write(annotations(**said))
    with pytest.raises(ConfigError):
        load_wanted(settings)
    assert on_failure_asked(settings) is asked


def test_annotations_that_are_none_ask_for_nothing_else(given: Given, volume: Volume) -> None:
    settings = given(on_failure="closed")
    volume.write("no annotations\n")
    assert on_failure_asked(settings) is OnFailure.CLOSED


@pytest.mark.parametrize(
    ("told", "said", "mesh"),
    [
        ("auto", "istio", Mesh.ISTIO),
        ("istio", "none", Mesh.NONE),
        ("istio", "auto", Mesh.ISTIO),
        ("linkerd", None, Mesh.LINKERD),
        ("auto", "auto", Mesh.AUTO),
    ],
)
def test_the_annotation_names_the_mesh_unless_it_leaves_it_to_the_injector(
    given: Given, volume: Volume, told: str, said: str | None, mesh: Mesh
) -> None:
    settings = given(mesh=told)
    volume.write(annotations(egress_bandwidth="10M", **({} if said is None else {"mesh": said})))
    assert load_wanted(settings).settings.mesh is mesh


def test_an_empty_list_takes_the_place_of_a_default(given: Given, volume: Volume) -> None:
    settings = given(exclude_outbound_ports=(PortRange(25, 25),))
    volume.write(annotations(egress_bandwidth="10M", exclude_outbound_ports=""))
    assert load_wanted(settings).settings.exclude_outbound_ports == ()


def test_a_shared_policy_is_read_from_its_file(given: Given, volume: Volume) -> None:
    volume.write(annotations(policy="lanes", classes=API))
    wanted = load_wanted(given(shared=SHARED))
    assert [c.name for c in wanted.policy.classes] == ["api", "web"]
    assert wanted.warnings == ()


def test_a_shared_policy_that_nobody_names_is_not_used(given: Given) -> None:
    wanted = load_wanted(given(shared=SHARED))
    assert (wanted.policy.total, wanted.policy.classes) == (Rate.parse("10Mbit"), ())


def test_warnings_are_kept(given: Given, volume: Volume) -> None:
    volume.write(format_map({"podlane.io/egress-bandwidth": "2M", "kubernetes.io/egress-bandwidth": "1M"}))
    assert len(load_wanted(given()).warnings) == 1


@pytest.mark.parametrize(
    ("text", "shared", "words"),
    [
        (annotations(egress_bandwidth="10Mbit"), None, "podlane.io/egress-bandwidth: '10Mbit' is not a Kubernetes quantity."),
        (annotations(policy="lanes"), None, "podlane.io/policy: It names ConfigMap lanes, but --shared-policy is missing."),
        (annotations(policy="lanes"), "total: 5", "podlane.io/policy: ConfigMap lanes, policy.yaml: total: 5 has no unit."),
        ("{}", None, 'Line 1 is not key="value".'),
    ],
    ids=["wrong value", "not mounted", "wrong shared policy", "another file"],
)  # fmt: skip
def test_an_error_names_the_annotation_and_the_remedy(
    given: Given, volume: Volume, text: str, shared: str | None, words: str
) -> None:
    settings = given(shared=shared)
    volume.write(text)
    with pytest.raises(ConfigError) as error:
        load_wanted(settings)
    assert words in str(error.value)


def test_files_that_cannot_be_read_are_named(given: Given, volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file /nowhere/annotations"):
        load_wanted(given(annotations="/nowhere/annotations"))
    with pytest.raises(ConfigError, match=r"pod: It cannot be read: Is a directory\."):
        load_wanted(given(annotations=volume.folder))
    (tmp_path / "latin").write_bytes(b'a="\xe9"')
    with pytest.raises(ConfigError, match=r"Not UTF-8 text \(byte 3\)"):
        load_wanted(given(annotations=tmp_path / "latin"))
    volume.write(annotations(policy="lanes"))
    with pytest.raises(ConfigError, match=r"/nothing has no lanes/policy\.yaml\. Name by --shared-policy the folder"):
        load_wanted(given(shared_policy=tmp_path / "nothing"))


# --- while it runs ---------------------------------------------------------------------------------------------------


def changed(given: SidecarSettings, volume: Volume, running: Wanted | None = None, **said: str) -> Wanted:
    running = running or load_wanted(given)
    volume.write(annotations(**said))
    return reload_wanted(given, running)


def test_policy_and_exclusions_follow_the_annotations(given: Given, volume: Volume) -> None:
    wanted = changed(given(), volume, egress_bandwidth="20M", exclude_outbound_ports="80")
    assert wanted.policy.total == Rate.parse("20Mbit")
    assert wanted.settings.exclude_outbound_ports == (PortRange(80, 80),)
    assert wanted.warnings == ()


def test_what_a_running_sidecar_cannot_change_stays_and_is_named(given: Given, volume: Volume) -> None:
    settings = given()
    later = {
        "detection_timeout": "3s",
        "datapath": "step-aside",
        "mesh": "none",
        "log_level": "debug",
        "cpu_limit": "1",
    }
    wanted = changed(settings, volume, egress_bandwidth="20M", exclude_outbound_ports="80", **later)
    assert wanted.settings == settings.model_copy(update={"exclude_outbound_ports": (PortRange(80, 80),)})
    assert wanted.warnings == (
        "Not in force before the Pod is created again: podlane.io/detection-timeout (3s), podlane.io/datapath (step-aside), podlane.io/mesh (none), podlane.io/log-level (debug), podlane.io/cpu-limit (1).",
    )
    again = changed(settings, volume, wanted, egress_bandwidth="30M", **later)
    assert again.warnings == wanted.warnings
    back = changed(settings, volume, again, egress_bandwidth="30M")
    assert back.warnings == ()


def test_another_shared_policy_waits_for_a_new_pod(given: Given, volume: Volume) -> None:
    """At a new start, too: the volume has the ConfigMap that the annotation named when the Pod was made."""
    settings = given(shared=SHARED)
    volume.write(annotations(policy="lanes", classes=API, **INJECTED))
    running = load_wanted(settings)
    renamed = changed(settings, volume, running, policy="others", classes=API, **INJECTED)
    assert renamed.policy == running.policy
    assert renamed.warnings == (
        "podlane.io/policy: It names ConfigMap others now, but this Pod was made with lanes, which stays in force. Create the Pod again.",
    )
    restarted = load_wanted(settings)
    assert (restarted.policy, restarted.warnings) == (renamed.policy, renamed.warnings)
    back = changed(settings, volume, restarted, policy="lanes", classes=API, **INJECTED)
    assert (back.policy, back.warnings) == (running.policy, ())


def test_a_shared_policy_that_is_named_later_waits_for_a_new_pod(given: Given, volume: Volume) -> None:
    settings = given()
    volume.write(annotations(egress_bandwidth="10M", **INJECTED))
    running = load_wanted(settings)
    named = changed(settings, volume, running, egress_bandwidth="10M", policy="lanes", **INJECTED)
    assert named.policy == running.policy
    assert named.warnings == (
        "podlane.io/policy: It names ConfigMap lanes now, but this Pod was made without one, and the other annotations alone stay in force. Create the Pod again.",
    )
    assert load_wanted(settings).warnings == named.warnings
    with pytest.raises(ConfigError, match=r"(?s)no limit is set.*It names ConfigMap lanes now"):
        changed(settings, volume, named, policy="lanes", **INJECTED)


def test_a_shared_policy_need_not_stay(given: Given, volume: Volume) -> None:
    settings = given(shared=SHARED)
    volume.write(annotations(policy="lanes", **INJECTED))
    running = load_wanted(settings)
    without = changed(settings, volume, running, egress_bandwidth="1M", **INJECTED)
    assert (without.policy.classes, without.warnings) == ((), ())
    assert changed(settings, volume, without, policy="lanes", **INJECTED).policy == running.policy


def test_outside_of_injected_pods_another_shared_policy_is_refused(given: Given, volume: Volume) -> None:
    settings = given(shared=SHARED)
    with pytest.raises(ConfigError, match=r"It names ConfigMap others, but .*/policy has no others/policy\.yaml\."):
        changed(settings, volume, policy="others")
    file = given(shared_policy=settings.shared_policy / "lanes/policy.yaml")
    with pytest.raises(
        ConfigError, match=r"/policy\.yaml has no others/policy\.yaml\. Name by --shared-policy the folder"
    ):
        load_wanted(file)


def test_a_policy_file_is_reloaded_as_ever(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("total: 5Mbit")
    settings = load_settings({"policy": file, "total": "7Mbit"})
    running = load_wanted(settings)
    file.write_text(f"{{total: 5Mbit, classes: {API}}}")
    wanted = reload_wanted(settings, running)
    assert (wanted.policy.total, len(wanted.policy.classes)) == (Rate.parse("7Mbit"), 1)
    assert (wanted.settings, wanted.warnings) == (settings, ())


def test_the_contents_change_with_any_of_the_files(given: Given, volume: Volume, tmp_path: Path) -> None:
    settings = given(shared=SHARED)
    assert [path.name for path in sources(settings)] == ["annotations", "policy.yaml"]
    seen = {contents(settings)}
    volume.write(annotations(egress_bandwidth="20M"))
    seen.add(contents(settings))
    os.replace(volume.folder / "..data", volume.folder / "..gone")
    seen.add(contents(settings))
    (tmp_path / "policy/..version_1/lanes/policy.yaml").write_text(f"# changed\n{SHARED}")
    seen.add(contents(settings))
    assert len(seen) == 4
    assert contents(settings) in seen


# --- attempts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "policy.yaml"
    made.write_text("total: 5Mbit")
    return made


def test_what_was_tried_is_not_tried_again(file: Path) -> None:
    settings = load_settings({"policy": file})
    running = load_wanted(settings)
    assert attempt(settings, running, contents(settings)) is None
    again = attempt(settings, running, None)
    assert again is not None
    assert again.wanted == running, "who is asked by a signal reads it all the same"
    file.write_text("total: 6Mbit")
    other = attempt(settings, running, again.contents)
    assert other is not None
    assert other.wanted is not None
    assert other.wanted.policy.total == Rate.parse("6Mbit")
    assert other.wanted.digest != running.digest


def test_the_same_meaning_has_the_same_digest(file: Path) -> None:
    settings = load_settings({"policy": file})
    first = load_wanted(settings)
    file.write_text('{"total": "5000kbit"}')
    assert load_wanted(settings).digest == first.digest


def test_a_policy_that_is_half_written_gets_the_time_to_be_whole(file: Path) -> None:
    settings = load_settings({"policy": file})
    running = load_wanted(settings)
    file.write_text("total: 7Mb")
    found = attempt(settings, running, None, pause=lambda _: file.write_text("total: 7Mbit") and None)
    assert found is not None
    assert found.wanted is not None
    assert found.wanted.policy.total == Rate.parse("7Mbit")
    assert found.contents == contents(settings)


@pytest.mark.parametrize("text", ["total: 5", "\0", None], ids=["wrong", "no YAML", "gone"])
def test_a_policy_that_stays_wrong_is_a_problem_and_no_exception(file: Path, text: str | None) -> None:
    settings = load_settings({"policy": file})
    running = load_wanted(settings)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    waited: list[float] = []
    found = attempt(settings, running, None, pause=waited.append)
    assert found is not None
    assert found.wanted is None
    assert str(file) in found.problem
    assert len(waited) == 1
    assert attempt(settings, running, found.contents) is None


def test_a_pipe_is_not_read_to_see_whether_it_has_changed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    settings = load_settings({"policy": fifo})
    assert contents(settings) == contents(settings)
