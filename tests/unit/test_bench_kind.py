"""The benchmark in a cluster: what kubelet and API server tell, limits that settle, Pods, tables, the picture, mistakes."""

from __future__ import annotations

import copy
import io
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from benchmarks import report as comparison
from benchmarks.admission.run import patched
from benchmarks.cli import main
from benchmarks.command import undisturbed
from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.kind import loads, manifests, report
from benchmarks.kind.cli import _command, kind
from benchmarks.kind.cluster import ClusterError
from benchmarks.kind.exposition import Histogram, Usage, usage
from benchmarks.kind.figures import (
    ADMISSION,
    BULK,
    CONNECTIONS,
    END,
    KEEP_ALIVE,
    MEASURES,
    ONCE,
    PER_TURN,
    STARTUP,
    USAGE,
)
from benchmarks.kind.figures import choose as choose_measures
from benchmarks.kind.kubelet import Container, Counter
from benchmarks.kind.loads import LOADS, Loaded, Pair
from benchmarks.kind.manifests import Place
from benchmarks.kind.namespaces import COLUMNS, ROWS, published
from benchmarks.kind.run import Plan, Runner
from benchmarks.kind.settled import SETTLE, Held, held, plugin_held
from benchmarks.kind.startup import Start, figures
from benchmarks.kind.variants import (
    AGENT,
    ASIDE,
    BANDWIDTH,
    KERNEL,
    LANES,
    LIMITED,
    PLAIN,
    RELAY,
    VARIANTS,
    WEB,
    Variant,
    choose,
)
from benchmarks.metrics.base import Outcome
from benchmarks.metrics.shaping import PAYLOAD_SHARE
from benchmarks.progress import Progress
from benchmarks.results import CandidateInfo, Results, Sample
from injector.pod.admission import mutate
from injector.pod.defaults import InjectionDefaults

PLACE = Place("bench", "node-1.example.com", "node-1", "application:1")
MACHINE = {
    "date": "2026-01-02 03:04 UTC", "load before": "0.0 0.0 0.0", "kernel": "6.18", "cpus": "2",
    "node": "one node, a CPU", "kubernetes": "Kubernetes v1.37.2",
}  # fmt: skip
SETTINGS = {"rounds": 3, "seconds": 3, "pods": 50, "burst": 100, "command": "make bench-kind"}
ADMISSION_SECONDS = "apiserver_admission_webhook_admission_duration_seconds"
CADVISOR = """\
# HELP container_cpu_usage_seconds_total Cumulative cpu time consumed in seconds.
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="",cpu="total",namespace="bench",pod="relay"} 9.5 1764105000123
container_cpu_usage_seconds_total{container="podlane",cpu="total",namespace="bench",pod="relay"} 1.25 1764105000123
container_cpu_usage_seconds_total{container="podlane",cpu="total",namespace="bench",pod="relay"} 0.5 1764104000000
container_cpu_usage_seconds_total{container="podlane",cpu="total",namespace="other",pod="relay"} 7 1764105000123
container_memory_working_set_bytes{container="podlane",namespace="bench",pod="relay"} 6.291456e+07 1764105000123
container_memory_rss{container="podlane",namespace="bench",pod="relay"} 5.24288e+07 1764105000123
container_memory_rss{container="app",namespace="bench",pod="relay"} 1 1764105000123
container_spec_cpu_period{container="podlane",namespace="bench",pod="relay"} 100000 1764105000123
"""


def histogram(
    counts: dict[str, int], total: float, name: str = "pod.inject.podlane.io", rejected: str = "false"
) -> str:
    labels = f'name="{name}",operation="CREATE",rejected="{rejected}",type="admit"'
    lines = [f'{ADMISSION_SECONDS}_bucket{{{labels},le="{le}"}} {count}' for le, count in counts.items()]
    return (
        "\n".join([*lines, f"{ADMISSION_SECONDS}_sum{{{labels}}} {total}", f"{ADMISSION_SECONDS}_count{{{labels}}} 0"])
        + "\n"
    )


def read(text: str) -> Histogram:
    return Histogram.read(text, ADMISSION_SECONDS, {"name": "pod.inject.podlane.io", "operation": "CREATE"})


# --- what is told by the cluster ---------------------------------------------------------------------------------------


def test_usage_is_that_of_the_container_and_of_its_last_run() -> None:
    assert usage(CADVISOR, "bench", "relay", "podlane") == Usage(1764105000.123, 1.25, 60.0, 50.0)


@pytest.mark.parametrize("pod", ["relay-2", "rel"])
def test_what_the_kubelet_has_not_looked_at_has_no_usage(pod: str) -> None:
    assert usage(CADVISOR, "bench", pod, "podlane") is None
    assert usage(CADVISOR, "bench", "relay", "app") is None, "it has no CPU time yet"


def test_a_load_that_failed_is_no_part_of_the_next_ones_cpu() -> None:
    looks = iter([1.0, 1.5, 9.0, 9.25])
    usage = Counter(lambda: Usage(0, next(looks), 0, 0))
    usage.begin()
    assert usage.cpu() == 0.5
    usage.begin()  # and it fails
    usage.begin()
    assert usage.cpu() == 0.25
    assert next(looks, None) is None, "each look takes some ten seconds"


def test_memory_after_the_loads_is_looked_at_after_the_last_one() -> None:
    looks = (Usage(n, n, 10 * n, 100 * n) for n in range(1, 9))
    usage = Counter(lambda: next(looks))
    fresh = {"start_cpu_s": 1, "fresh_mib": 10}
    assert usage.figures() == fresh, "nothing was loaded"
    usage.begin()
    usage.cpu()
    assert usage.figures() == {**fresh, "after_mib": 20, "resident_mib": 200}
    usage.begin()  # accuracy, say
    assert usage.figures() == {**fresh, "after_mib": 30, "resident_mib": 300}


def test_histograms_add_up_their_series_and_leave_others_alone() -> None:
    text = (
        histogram({"0.005": 10, "0.025": 30, "+Inf": 40}, 0.6)
        + histogram({"0.005": 1, "0.025": 2, "+Inf": 2}, 0.01, rejected="true")
        + histogram({"0.005": 500, "0.025": 500, "+Inf": 500}, 1, name="pod.validate.podlane.io")
    )
    found = read(text)
    assert (found.count, found.total) == (42, pytest.approx(0.61))
    assert [count for _, count in found.buckets] == [11, 32, 42]


def test_what_was_counted_between_two_readings() -> None:
    before = read(histogram({"0.005": 10, "0.025": 10, "0.1": 10, "+Inf": 10}, 0.02))
    after = read(histogram({"0.005": 60, "0.025": 100, "0.1": 110, "+Inf": 110}, 1.02))
    between = after.since(before)
    assert (between.count, between.mean) == (100, pytest.approx(0.01))
    assert between.quantile(0.5) == pytest.approx(0.005)
    assert between.quantile(0.7) == pytest.approx(0.005 + 0.020 * 20 / 40)  # 40 of them are in that bucket
    assert between.quantile(0.99) == pytest.approx(0.025 + 0.075 * 9 / 10)
    assert after.since(read("")).count == 110, "nothing had been counted before"
    with pytest.raises(MeasurementError, match="another API server"):
        before.since(after)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert read(histogram({"0.005": 1, "+Inf": 10}, 9)).quantile(0.99) == 0.005
    for empty in (read(""), read(histogram({"0.005": 0, "+Inf": 0}, 0))):
        with pytest.raises(MeasurementError, match="counted nothing"):
            empty.quantile(0.5)
        with pytest.raises(MeasurementError, match="counted nothing"):
            _ = empty.mean


# --- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst", [0, 40], ids=["none", "40 MiB at once"])
def test_a_limit_is_judged_when_it_has_settled(burst: int) -> None:
    """What passes at first, beyond the limit, is told by itself."""
    per_second = 10e6 / 8 * PAYLOAD_SHARE
    seen = [(t / 20, burst * 2**20 + per_second * t / 20) for t in range(int((SETTLE + 2) * 20))]
    found = held(seen, 10)
    assert found.share == pytest.approx(1)
    assert found.mbit_s == pytest.approx(10 * PAYLOAD_SHARE)
    assert found.beyond_mib == pytest.approx(burst, abs=0.01)


def test_a_limit_cannot_be_judged_before_it_has_settled() -> None:
    with pytest.raises(MeasurementError, match="1 looks"):
        held([(0, 0), (1, 10), (SETTLE, 20)], 10)


def test_a_cluster_without_the_bandwidth_plugin_is_told() -> None:
    plugin_held(Held(10.5, 1.1, 184), 10)
    with pytest.raises(MeasurementError, match="10 Mbit/s sends 4000 after 3 s: this cluster's CNI does not chain"):
        plugin_held(Held(4000, 418, 0), 10)


def test_percentiles_of_starts_are_nearest_rank() -> None:
    starts = [Start(n / 10, n) for n in range(1, 51)]
    assert figures(starts) == {
        "ready_p50_ms": pytest.approx(2500), "ready_p99_ms": pytest.approx(5000),
        "status_p50_s": 25, "status_p99_s": 50,
    }  # fmt: skip
    assert figures(starts).keys() == STARTUP.figures.keys()


# --- Pods --------------------------------------------------------------------------------------------------------------


def review(pod: manifests.Document) -> dict[str, object]:
    request = {
        "uid": "1", "operation": "CREATE", "namespace": PLACE.namespace, "name": pod["metadata"]["name"],
        "kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
        "object": pod,
    }  # fmt: skip
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def injected(pod: manifests.Document) -> manifests.Document:
    """The Pod as the injector leaves it."""
    import base64

    response = mutate(review(pod), InjectionDefaults(), lambda _namespace, _name: None)["response"]
    assert response["allowed"], response
    assert "warnings" not in response, response["warnings"]
    return patched(pod, json.loads(base64.b64decode(response["patch"])))


@pytest.mark.parametrize("variant", [RELAY, ASIDE, KERNEL], ids=lambda v: v.name)
def test_clients_are_injected_as_their_variant_says(variant: Variant) -> None:
    (part,) = variant.clients
    pod = injected(manifests.client(PLACE, variant.name, variant, part, "10.0.0.1"))
    names = [container["name"] for container in pod["spec"]["initContainers"]]
    assert names == [manifests.SIDECAR, "settings"]
    status = json.loads(pod["metadata"]["annotations"]["podlane.io/status"])
    assert status["version"]
    classes = yaml.safe_load(part.annotations["podlane.io/classes"])
    assert [c["name"] for c in classes] == [lane.name for lane in LANES]
    by_name = any({"sni", "host"} & match.keys() for c in classes for match in c["match"])
    assert by_name == (variant is not KERNEL)


def test_who_is_not_injected_has_no_annotation_of_ours() -> None:
    documents = [
        manifests.client(PLACE, "x", variant, part, "10.0.0.1")
        for variant in (PLAIN, BANDWIDTH)
        for part in variant.clients
    ]
    for document in [*documents, manifests.server(PLACE, "server"), manifests.started(PLACE, "x", PLAIN)]:
        assert document["metadata"]["labels"] == {"podlane.io/inject": "false"}
        assert not [name for name in document["metadata"]["annotations"] if name.startswith("podlane.io/")]


def test_who_is_the_agents_asks_for_it_and_for_the_same_lanes() -> None:
    (part,), (with_sidecar,) = AGENT.clients, ASIDE.clients
    pod = manifests.client(PLACE, "agent", AGENT, part, "10.0.0.1")
    assert pod["metadata"]["labels"] == {"podlane.io/mode": "agent"}
    assert part.annotations == {k: v for k, v in with_sidecar.annotations.items() if k != "podlane.io/datapath"}
    response = mutate(review(pod), InjectionDefaults(), lambda _namespace, _name: None)["response"]
    assert response["allowed"]
    assert "patch" not in response


def test_the_plugin_has_a_pod_for_each_limit() -> None:
    limits = [part.annotations["kubernetes.io/egress-bandwidth"] for part in BANDWIDTH.clients]
    assert limits == ["10M", "100M", "30G"]
    assert [lane for part in BANDWIDTH.clients for lane in part.lanes] == list(LANES)
    assert not PLAIN.limits
    assert all(variant.limits for variant in VARIANTS.values() if variant is not PLAIN)


def test_pods_find_the_server_by_names_and_their_programs_in_the_configuration() -> None:
    document = manifests.client(PLACE, "plain", PLAIN, PLAIN.clients[0], "10.0.0.1")
    assert document["spec"]["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": [lane.host for lane in LANES]}]
    files = manifests.configuration()["data"]
    for name in ("sink", "sender", "counts"):
        program, path = manifests.worker(name, "1")[:2]
        assert (program, Path(path).name in files) == ("python3", True)
        compile(files[f"{name}.py"], name, "exec")
        assert "benchmarks" not in files[f"{name}.py"].split('"""', 2)[2], "a Pod has Python, and nothing of ours"
    ports = {
        c["name"]: c["startupProbe"]["tcpSocket"]["port"] for c in manifests.server(PLACE, "s")["spec"]["containers"]
    }
    assert ports == {"nginx": WEB.ports[0], "iperf3": WEB.ports[1], "sink": LIMITED[-1].ports[0]}


def test_a_node_is_chosen_by_its_label_and_its_kubelet_asked_by_its_name() -> None:
    asked: list[str] = []

    class Told:
        def text(self, path: str) -> str:
            asked.append(path)
            return CADVISOR.replace("1764105000123", str(1764105000123 + len(asked)))

    Container(Told(), PLACE.node, PLACE.namespace, "relay", manifests.SIDECAR).next_look()  # type: ignore[arg-type]
    assert set(asked) == {"/api/v1/nodes/node-1.example.com/proxy/metrics/cadvisor"}
    assert manifests.started(PLACE, "p", PLAIN)["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "node-1"}


def test_a_burst_is_of_the_same_pods_for_no_node() -> None:
    one, other = (make(PLACE, "p", RELAY) for make in (manifests.started, manifests.unscheduled))
    assert one["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "node-1"}
    assert list(other["spec"]["nodeSelector"]) == ["podlane.io/no-such-node"]
    same = copy.deepcopy(other)
    same["spec"]["nodeSelector"] = one["spec"]["nodeSelector"]
    assert same == one
    assert injected(other)["spec"]["initContainers"][0]["name"] == manifests.SIDECAR


# --- the plan ----------------------------------------------------------------------------------------------------------


def plan(**changes: object) -> Plan:
    made = Plan(list(VARIANTS.values()), list(MEASURES.values()), rounds=2, seconds=3, pods=4, burst=10)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_variants_take_turns_and_starts_are_symmetrical() -> None:
    assert [variant.name for _, variant in plan().turns()] == list(VARIANTS) * 2
    assert [variant for _, variant in plan().starts()] == [PLAIN, RELAY, AGENT, AGENT, RELAY, PLAIN] * 2
    assert list(plan(measures=[STARTUP]).turns()) == []
    assert plan(variants=[KERNEL]).started == []


def test_nobody_is_asked_for_what_it_has_not() -> None:
    assert [m.name for m in plan().of(RELAY)] == [m.name for m in plan().of(AGENT)] == [m.name for m in PER_TURN]
    assert [m.name for m in plan().of(PLAIN)] == ["connections", "keepalive", "bulk"]
    assert [m.name for m in plan().of(BANDWIDTH)] == ["connections", "keepalive", "bulk", "accuracy"]
    assert plan().steps == 2 * (3 + 4 * 5 + 4) + 3 + 2
    assert {*LOADS, USAGE.name} == {m.name for m in PER_TURN}


class Pods:
    """As much of a cluster, and of its API, as a turn asks for; the first deletion fails."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.stuck = True

    def ask(self, _method: str, _path: str, document: manifests.Document) -> None:
        if document["metadata"]["name"] in self.names:
            raise ClusterError("The API server answers 409: exists")
        self.names.add(document["metadata"]["name"])

    def get(self, path: str) -> dict[str, object]:
        return {"items": sorted(self.names)} if path.endswith("/pods") else {"status": {"podIP": "10.0.0.1"}}

    def run(self, command: str, *_arguments: str, patience: float = 0.0) -> str:  # noqa: ARG002
        if command == "delete":
            if self.stuck:
                self.stuck = False
                raise ClusterError("the deletion did not end")
            self.names.clear()
        return ""


def test_pods_that_could_not_be_removed_are_told_and_spoil_no_later_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(LOADS, CONNECTIONS.name, lambda _pair: Loaded(Outcome({"per_s": 1.0})))
    results, pods = Results(MACHINE, SETTINGS), Pods()
    progress = Progress(Console(file=io.StringIO()))
    wanted = plan(variants=[PLAIN], measures=[CONNECTIONS], rounds=3)
    Runner(pods, pods, PLACE, results, progress, tmp_path / "results.json", wanted).run()  # type: ignore[arg-type]
    assert [(s.round, s.metric, s.failure) for s in results.samples] == [
        (1, CONNECTIONS.name, None), (1, END.name, "the deletion did not end"),
        (2, CONNECTIONS.name, None), (3, CONNECTIONS.name, None),
    ]  # fmt: skip
    assert not pods.names


class SilentProgram:
    """A cluster in which a program is run, and says nothing."""

    @contextmanager
    def executing(self, *_arguments: object) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def test_a_server_that_does_not_begin_to_look_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "_SLACK", 0.01)
    pods = Pair(SilentProgram(), PLACE, RELAY, "10.0.0.1", {}, seconds=1)  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="did not begin to look"):
        LOADS["accuracy"](pods)


def test_names_choose() -> None:
    assert choose(["relay", "plain"]) == [PLAIN, RELAY]
    assert choose([]) == list(VARIANTS.values())
    assert choose_measures(["startup", "bulk"]) == [BULK, STARTUP]
    assert choose_measures([]) == [*PER_TURN, *ONCE]


# --- what is made of it ------------------------------------------------------------------------------------------------


def samples(variant: Variant, measure: str, rounds: list[dict[str, float]], errors: int = 0) -> list[Sample]:
    return [Sample(number, variant.name, measure, values, errors) for number, values in enumerate(rounds, 1)]


def run() -> Results:
    made = Results(MACHINE, SETTINGS, {v.name: CandidateInfo(v.title, "1") for v in VARIANTS.values()})
    made.samples = [
        *samples(PLAIN, CONNECTIONS.name, [{"per_s": 1000}, {"per_s": 2000}, {"per_s": 9000}]),
        *samples(RELAY, CONNECTIONS.name, [{"per_s": 900, "cpu_per_1000": 0.1}, {"per_s": 1500, "cpu_per_1000": 0.2}]),
        *samples(BANDWIDTH, CONNECTIONS.name, [{"per_s": 1600}], errors=3),
        *samples(RELAY, "accuracy", [{"share_10": 1.0, "mbit_10": 9.56, "beyond_10_mib": 0.0}]),
        *samples(BANDWIDTH, "accuracy", [{"share_10": 0.9, "mbit_10": 8.6, "beyond_10_mib": 190.0}]),
        *samples(RELAY, ADMISSION.name, [dict.fromkeys(ADMISSION.figures, 4.0)]),
        Sample(1, ASIDE.name, KEEP_ALIVE.name, {}, 1, "wrk said no"),
    ]
    made.complete = True
    return made


PAGE = """\
| | before | Podlane relay |
|---|---:|---:|
| new connections, connections/s | 1 | 2 |

|  | direct | direct, HTB | Podlane relay |
|---|---:|---:|---:|
| new connections, connections/s | 14,919 | 14,616 | 10,849 |
| something else | 1 | 2 | 3 |

| figure | ratio |
|---|---|
| new connections, connections/s | 0.7 |
"""


def test_figures_of_the_other_benchmark_are_read_from_its_page() -> None:
    found = published(PAGE)
    assert found["new connections, connections/s", "direct"] == "14,919"
    assert found["new connections, connections/s", "Podlane relay"] == "10,849"
    assert ("new connections, connections/s", "ratio") not in found


def test_the_page_has_every_row_and_column_that_is_looked_for() -> None:
    """The names are those that the other benchmark writes today."""
    found = report._figures_of(comparison.DOCUMENT.read_text())
    expected = {(row, column) for row in ROWS.values() for column in COLUMNS.values()}
    absent = expected - found.keys()
    assert {column for _, column in absent} <= {"direct"}, "direct has no limits, and is not in that table"
    assert {row for row, _ in absent} <= {"10 Mbit/s: measured / computed", "100 Mbit/s: measured / computed"}


def test_the_report_has_medians_ratios_both_benchmarks_and_all_that_went_wrong() -> None:
    text = report.document(run(), published(PAGE))
    assert "Measured on 2026-01-02 03:04 UTC by `make bench-kind`: one node, a CPU; Kubernetes v1.37.2" in text
    assert "nothing is pinned" in text
    assert "whole Pod only" in text
    assert "| new connections, connections/s | 2,000 (1,000–9,000) | 1,200 (900–1,500) | 1,600 |" in text
    assert "| 10 Mbit/s: measured / computed | – | 1 | 0.9 |" in text
    assert "| new connections | more is better | 0.6 | 0.8 | 0.75 |" in text
    assert "| new connections, connections/s | 2,000 | 14,919 | 1,200 | 10,849 |" in text
    assert "* Podlane step aside, keepalive: wrk said no" in text
    assert "* CNI's bandwidth plugin, connections: 3 errors." in text
    assert "| mutating webhook, by the API server's metrics, p99, ms | – | 4 | – |" in text
    assert "interrupted" not in text
    assert "**The run was interrupted.**" in report.document(replace(run(), complete=False), {})


def test_tables_are_whole() -> None:
    head = 0
    for line in report.document(run(), published(PAGE)).splitlines():
        count = line.count("|")
        assert not head or not count or count == head, line
        head = count


def test_it_is_written_and_drawn_and_read_back(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    files = report.write(run(), tmp_path, page)
    assert [file.name for file in files] == ["results.json", "results.md", "kind.svg"]
    assert (tmp_path / "kind.png").read_bytes().startswith(b"\x89PNG")
    assert Results.from_json(files[0].read_text()).samples == run().samples


def test_publishing_fills_in_its_own_place_and_reads_nothing_from_there(tmp_path: Path) -> None:
    target = tmp_path / "benchmarks.md"
    stale = PAGE.replace("14,919", "77,777")
    target.write_text(f"{PAGE}\n{comparison.BEGIN}\nkept\n{comparison.END}\n{report.BEGIN}\n{stale}\n{report.END}\nb\n")
    assert report.publish(run(), tmp_path, target) == [target]
    text = target.read_text()
    assert "kept" in text
    assert "77,777" not in text
    assert "14,919 | 1,200" in text
    with pytest.raises(BenchmarkError, match="interrupted"):
        report.publish(replace(run(), complete=False), tmp_path, target)


def test_the_document_has_the_markers() -> None:
    text = comparison.DOCUMENT.read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        pytest.param(["--only", "mesh"], 1, "no variant mesh. There are: plain, relay,", id="variant"),
        pytest.param(["--measures", "joy"], 1, "no measure joy. There are: connections,", id="measure"),
        pytest.param([], 1, "kubectl is not on PATH", id="no kubectl"),
        pytest.param(["--publish", "--output", "/dev/null"], 1, "Run `make bench-kind` first", id="no results"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], status: int, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(main, ["kind", *arguments])
    assert (done.exit_code, says in done.output) == (status, True), done.output


@pytest.mark.parametrize(
    ("context", "says"),
    [
        pytest.param("", "There is no cluster. Make one: make kind-up.", id="none"),
        pytest.param(
            "production", "The current context production is not kind's, and is left alone", id="somebody's own"
        ),
    ],
)
def test_only_kind_is_used_unasked(context: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("kubectl", "helm"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{context}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    done = CliRunner().invoke(main, ["kind", "--output", str(tmp_path)])
    assert (done.exit_code, says in done.output) == (1, True), done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param([], "make bench-kind", id="make"),
        pytest.param(
            ["--quick", "--only", "plain,relay", "--rounds", "5", "--output", "/home/me/x", "--namespace", "mine"],
            "make bench-kind BENCH_ARGS='--quick --rounds 5 --only plain,relay'",
            id="make, options",
        ),
        pytest.param(
            ["--context", "acme-production", "--burst", "7", "--node", "n17", "--image", "registry.acme/app:1"],
            "python -m benchmarks kind --context CONTEXT --burst 7",
            id="somebody's cluster",
        ),
    ],
)
def test_the_command_that_is_published_names_no_place(arguments: list[str], told: str) -> None:
    assert _command(kind.make_context("kind", arguments)) == told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_tidying_up_is_not_ended_by_a_signal(number: signal.Signals) -> None:
    """The same goes for what it runs, and before and after it a signal is what it was."""
    before = signal.getsignal(number)
    with undisturbed():
        signal.raise_signal(number)
        subprocess.run(["sh", "-c", f"kill -{number.value} $$"], check=True)
    assert signal.getsignal(number) is before


def test_the_help_names_variants_and_measures() -> None:
    said = CliRunner().invoke(main, ["kind", "--help"]).output
    assert all(f"  {name:<12} " in said for name in (*VARIANTS, *MEASURES))
