"""``podlane inject``, ``uninject`` and ``ready`` as their users meet them."""

from __future__ import annotations

import json
import select
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from click.testing import CliRunner, Result
from injected_pods import LANES
from manifest_samples import CRON_JOB, DEPLOYMENT

from podlane.main import main
from sidecar.supervisor import control


def podlane(*arguments: str | Path, stdin: str = "", environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin, env=environment or {})


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(DEPLOYMENT)
    return path


def test_from_standard_input_there_and_back() -> None:
    there = podlane("inject", "-f", "-", "--image", "registry.example.com/podlane:1", stdin=DEPLOYMENT)
    assert there.exit_code == 0, there.output
    assert "image: registry.example.com/podlane:1" in there.stdout
    assert there.stderr == "podlane: standard input: document 1 (line 2), Deployment/web: injected.\n"
    back = podlane("uninject", "-f", "-", "--quiet", stdin=there.stdout)
    assert (back.exit_code, back.stdout, back.stderr) == (0, DEPLOYMENT, "")


def test_in_place_keeps_mode_and_link(manifest: Path, tmp_path: Path) -> None:
    manifest.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(manifest)
    assert podlane("inject", "-f", link, "--in-place").stdout == ""
    assert link.is_symlink()
    assert manifest.stat().st_mode & 0o777 == 0o640
    assert "- name: podlane\n" in manifest.read_text()
    assert podlane("uninject", "-f", link, "--in-place").exit_code == 0
    assert manifest.read_text() == DEPLOYMENT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.yaml", "shop.yaml"]


def test_refusals_name_everything_and_write_nothing(manifest: Path) -> None:
    wrong = f"{DEPLOYMENT.replace('50M', '50X')}---\n{CRON_JOB.replace('5M', '-5M')}"
    manifest.write_text(wrong)
    done = podlane("inject", "-f", manifest, "--in-place")
    assert (done.exit_code, done.stdout, manifest.read_text()) == (2, "", wrong)
    assert f"{manifest}: document 1 (line 2), Deployment/web: podlane.io/egress-bandwidth: '50X' is not" in done.stderr
    assert "CronJob/backup: podlane.io/egress-bandwidth: '-5M' is less than nothing" in done.stderr


ROLLOUT = DEPLOYMENT.replace("apps/v1", "argoproj.io/v1alpha1").replace("kind: Deployment", "kind: Rollout")


def test_several_files_become_one_stream_or_are_written_in_place(manifest: Path, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.yaml"
    jobs.write_text(CRON_JOB)
    both = podlane("inject", "-f", manifest, "-f", jobs, "-f", manifest, "--quiet")
    assert both.exit_code == 0, both.output
    alone = [podlane("inject", "-f", each, "--quiet").stdout for each in (manifest, jobs)]
    assert [d for d in yaml.safe_load_all(both.stdout) if d] == [
        d for text in alone for d in yaml.safe_load_all(text) if d
    ]
    assert podlane("inject", "-f", manifest, "-f", jobs, "--in-place").exit_code == 0
    assert [manifest.read_text(), jobs.read_text()] == alone
    assert podlane("uninject", "-f", manifest, "-f", jobs, "--in-place").exit_code == 0
    assert [manifest.read_text(), jobs.read_text()] == [DEPLOYMENT, CRON_JOB]


def test_of_several_files_none_is_written_if_one_is_wrong(manifest: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CRON_JOB.replace("5M", "5X"))
    done = podlane("inject", "-f", manifest, "-f", wrong, "--in-place")
    assert (done.exit_code, manifest.read_text()) == (2, DEPLOYMENT)
    assert f"{wrong}: document 1" in done.stderr


@pytest.mark.usefixtures("manifest")
def test_a_directory_is_its_manifests_and_one_finds_what_another_names(tmp_path: Path) -> None:
    policy = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lanes"}, "data": {"policy.yaml": LANES}}
    (tmp_path / "zz.json").write_text(json.dumps(policy))
    (tmp_path / "notes.txt").write_text("a: [")
    shared = {"metadata": {"annotations": {"podlane.io/policy": "lanes"}}, "spec": {"containers": [{"name": "a"}]}}
    (tmp_path / "pod.yml").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", **shared}))
    done = podlane("inject", "-f", tmp_path)
    assert done.exit_code == 0, done.output
    assert "was not checked" not in done.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(done.stdout) if document]
    assert sorted(kinds) == ["ConfigMap", "Deployment", "Pod"]


def test_a_directory_without_manifests(tmp_path: Path) -> None:
    done = podlane("inject", "-f", tmp_path)
    assert done.exit_code == 1
    assert "has no file named *.yaml, *.yml or *.json" in done.stderr


def test_kinds_of_others_are_known_or_named() -> None:
    done = podlane("inject", "-f", "-", stdin=f"{ROLLOUT}---\n{ROLLOUT.replace('Rollout', 'CloneSet')}")
    assert "Rollout/web: injected." in done.stderr
    unknown = "CloneSet/web: left alone. Podlane does not know where the Pods of CloneSet.argoproj.io are."
    assert unknown in done.stderr
    assert "Leave its Pods to Podlane's webhook" in done.stderr
    assert done.stdout.count("- name: podlane\n") == 1


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ({"labels": {"sidecar.istio.io/inject": "true"}}, "Istio's proxy will come"),
        ({"labels": {"istio.io/rev": "canary"}}, "Inject what `istioctl kube-inject` has written"),
        ({"annotations": {"linkerd.io/inject": "enabled"}}, "Inject what `linkerd inject` has written"),
        ({"annotations": {"sidecar.istio.io/inject": "false"}}, ""),
    ],
)
def test_a_mesh_that_comes_later_is_warned_of(sign: dict[str, dict[str, str]], words: str) -> None:
    annotations = {"podlane.io/egress-bandwidth": "10M", **sign.get("annotations", {})}
    metadata = {"name": "a", "labels": sign.get("labels", {}), "annotations": annotations}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "a"}]}}
    done = podlane("inject", "-f", "-", "--quiet", stdin=yaml.safe_dump(pod))
    assert words in done.stderr if words else not done.stderr


MISUSES = {
    "no file": (["inject", "-f", "there-is-none.yaml"], 1, "there-is-none.yaml cannot be read"),
    "in place of nothing": (["inject", "-f", "-", "--in-place"], 2, "Leave out --in-place"),
    "no such policy": (["inject", "-f", "-", "--policy-file", "none.yaml"], 1, "none.yaml cannot be read"),
    "pull policy": (["inject", "-f", "-", "--image-pull-policy", "Maybe"], 2, "Write Always, IfNotPresent, Never"),
    "not YAML": (["uninject", "-f", "-"], 2, "standard input: line 2, column 1: Not valid YAML"),
}


@pytest.mark.parametrize(("arguments", "status", "words"), MISUSES.values(), ids=MISUSES)
def test_misuse_is_told_with_a_remedy(arguments: list[str], status: int, words: str) -> None:
    done = podlane(*arguments, stdin="a: [\n")
    assert done.exit_code == status, done.output
    assert words in done.stderr


def test_a_file_that_is_not_text(manifest: Path) -> None:
    manifest.write_bytes(b"a: \xff\n")
    done = podlane("inject", "-f", manifest)
    assert done.exit_code == 1
    assert "is not UTF-8 text (byte 3)" in done.stderr


def test_ready_asks_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory() as directory:
        monkeypatch.setattr(control, "DIRECTORIES", (directory,))
        nobody = podlane("ready")
        assert nobody.exit_code == 1
        assert "There is no supervisor of a sidecar in this network namespace" in nobody.stderr
        poll = select.poll()
        answers = {"ready": "Not everything is in force.", "ping": "ok"}
        supervisor = control.Control(poll, answers.__getitem__)
        assert supervisor.open() is None
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                supervisor.serve({descriptor for descriptor, _ in poll.poll(50)})

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            early = podlane("ready")
            assert (early.exit_code, early.stderr) == (1, "podlane: Not everything is in force.\n")
            assert podlane("ready", "--alive").exit_code == 0
            late = podlane("ready", "--wait", "100ms")
            assert (late.exit_code, late.stderr) == (1, "podlane: Not everything is in force.\n")
            questions = iter(["There is no proxy.", "Not everything is in force.", "ready"])
            supervisor._answer = lambda _: next(questions)
            assert podlane("ready", "--wait", "1m").exit_code == 0
            assert next(questions, None) is None, "it asked until the answer was yes"
            supervisor._answer = answers.__getitem__
            answers["ready"] = "ready"
            assert podlane("ready").exit_code == 0
        finally:
            over.set()
            thread.join()
            supervisor.close()
