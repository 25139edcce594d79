"""What annotations mean together, and what is said of those that cannot be honoured."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_policy.pod.annotations import ANNOTATIONS, INJECT_LABEL, PREFIX, STATUS
from traffic_policy.pod.effective import AnnotationsError, PodPolicy, effective, shared_policy_name
from traffic_policy.policy_file import parse_policy, policy_from_document
from traffic_policy.ports import PortRange
from traffic_policy.units import Duration, Rate

API = '[{name: api, rate: 20Mbit, match: {sni: "*.example.com"}}]'
SHARED = """
total: 50Mbit
classes:
  - {name: api, rate: 5Mbit, match: {sni: "*.example.org"}}
  - {name: backup, rate: 1Mbit, match: [{port: 873}, {host: backup.example.com}]}
default: {rate: 2Mbit}
"""


def pod(*, shared: str | None = None, **annotations: str) -> PodPolicy:
    """``egress_bandwidth="100M"`` stands for ``podlane.io/egress-bandwidth: 100M``."""
    return effective(named(**annotations), shared=shared)


def named(**annotations: str) -> dict[str, str]:
    return {f"{PREFIX}{key.replace('_', '-')}": value for key, value in annotations.items()}


def refused(annotations: Mapping[str, str], shared: str | None = None) -> list[str]:
    with pytest.raises(AnnotationsError) as error:
        effective(annotations, shared=shared)
    assert error.value.problems
    return [str(problem) for problem in error.value.problems]


# --- one annotation --------------------------------------------------------------------------------------------------


def test_a_total_alone_is_a_policy_and_everything_else_is_left_to_defaults() -> None:
    assert pod(egress_bandwidth="100M") == PodPolicy(parse_policy("total: 100Mbit"))


def test_every_annotation_is_read() -> None:
    said = pod(
        egress_bandwidth="100M",
        classes=API,
        default_class="{rate: 1Mbit, priority: 6}",
        exclude_outbound_ports="25, 9000-9100",
        exclude_outbound_cidrs="10.96.0.0/12,fd00::1",
        exclude_inbound_ports="9090",
        exclude_inbound_cidrs="192.0.2.0/24",
        on_failure="closed",
        detection_timeout="500ms",
        datapath="step-aside",
        log_level="debug",
        cpu_request="20m",
        cpu_limit="0.5",
        memory_request="32Mi",
        memory_limit="64Mi",
    )
    assert said.policy == parse_policy(f"{{total: 100Mbit, classes: {API}, default: {{rate: 1Mbit, priority: 6}}}}")
    assert said.exclude_outbound_ports == (PortRange(25, 25), PortRange(9000, 9100))
    assert said.exclude_outbound_cidrs == (ip_network("10.96.0.0/12"), ip_network("fd00::1"))
    assert said.exclude_inbound_ports == (PortRange(9090, 9090),)
    assert said.exclude_inbound_cidrs == (ip_network("192.0.2.0/24"),)
    assert (said.on_failure, said.datapath, said.log_level) == ("closed", "step-aside", "debug")
    assert said.detection_timeout == Duration.parse("500ms")
    resources = said.resources
    assert [str(r) for r in (resources.cpu_request, resources.cpu_limit)] == ["20m", "0.5"]
    assert [str(r) for r in (resources.memory_request, resources.memory_limit)] == ["32Mi", "64Mi"]
    assert said.warnings == ()


@pytest.mark.parametrize("text", [API, '[{"name": "api", "rate": "20Mbit", "match": {"sni": "*.example.com"}}]',
                                  '- name: api\n  rate: 20Mbit\n  match:\n    - sni: ["*.example.com"]\n'],
                         ids=["flow YAML", "JSON", "block YAML"])  # fmt: skip
def test_classes_are_written_in_yaml_or_json(text: str) -> None:
    assert pod(egress_bandwidth="100M", classes=text) == pod(egress_bandwidth="100M", classes=API)


def test_annotations_of_others_are_passed_over() -> None:
    others = {"prometheus.io/scrape": "true", "io.podlane/x": "1", STATUS: '{"version": "1"}'}
    assert effective({**named(egress_bandwidth="1M"), **others}) == pod(egress_bandwidth="1M")


# --- bandwidth plugins' annotations ----------------------------------------------------------------------------------

EGRESS, INGRESS = "kubernetes.io/egress-bandwidth", "kubernetes.io/ingress-bandwidth"


def test_the_bandwidth_plugins_annotation_is_the_total_where_ours_is_missing() -> None:
    assert effective({EGRESS: "10M"}) == pod(egress_bandwidth="10M")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ("20M", None),
        ("5M", "podlane.io/egress-bandwidth is what counts here, but a network plugin may hold the Pod to"),
        ("5Mbit", "kubernetes.io/egress-bandwidth cannot be read ('5Mbit'); podlane.io/egress-bandwidth is what counts"),
    ],
    ids=["more", "less", "not readable"],
)  # fmt: skip
def test_ours_wins_and_a_difference_that_matters_is_told(theirs: str, words: str | None) -> None:
    said = effective({EGRESS: theirs, **named(egress_bandwidth="10M")})
    assert said.policy.total == Rate.parse("10Mbit")
    assert [w[: len(words)] for w in said.warnings] == [words] if words else not said.warnings


def test_the_same_of_what_arrives() -> None:
    ours = pod(egress_bandwidth="10M", ingress_bandwidth="20M")
    assert ours.policy == parse_policy("{total: 10Mbit, ingress: {total: 20Mbit}}")
    assert effective({INGRESS: "20M", EGRESS: "10M"}) == ours
    said = effective({INGRESS: "5M", **named(egress_bandwidth="10M", ingress_bandwidth="20M")})
    assert said.policy == ours.policy
    (warning,) = said.warnings
    assert warning == (
        "podlane.io/ingress-bandwidth is what counts here, but a network plugin may hold the Pod to "
        "kubernetes.io/ingress-bandwidth, which is less (5M)."
    )


def test_the_pods_own_total_of_what_arrives_wins_over_the_shared_one() -> None:
    shared = "{total: 50Mbit, ingress: {total: 30Mbit}}"
    assert pod(policy="lanes", shared=shared).policy == parse_policy(shared)
    said = pod(policy="lanes", shared=shared, ingress_bandwidth="20M").policy
    assert said == parse_policy(shared.replace("30Mbit", "20Mbit"))


# --- a shared policy -------------------------------------------------------------------------------------------------


def document(policy: PodPolicy) -> dict[str, Any]:
    return dict(policy.document)


def test_a_shared_policy_alone_is_the_policy() -> None:
    assert pod(policy="lanes", shared=SHARED).policy == parse_policy(SHARED)


def test_what_a_shared_policy_says_of_quic_holds_for_the_pods_own_classes_too() -> None:
    own = "[{name: api, rate: 1Mbit, match: {sni: api.example.com}}]"
    said = pod(policy="lanes", shared=f"{SHARED}\nquic: block", classes=own)
    assert (said.policy.quic, said.policy.classes[0].name) == ("block", "api")
    assert said.digest != pod(policy="lanes", shared=SHARED, classes=own).digest


def test_the_pods_total_and_default_win() -> None:
    said = document(pod(policy="lanes", shared=SHARED, egress_bandwidth="80M", default_class="{ceil: 3Mbit}"))
    assert (said["total"], said["default"]) == ("80Mbit", {"ceil": "3Mbit"})
    assert [c["name"] for c in said["classes"]] == ["api", "backup"]


def test_the_bandwidth_plugins_annotation_wins_too() -> None:
    assert effective({EGRESS: "40M", **named(policy="lanes")}, shared=SHARED).policy.total == Rate.parse("40Mbit")


def test_a_policy_may_leave_the_total_to_the_pods() -> None:
    shared = SHARED.replace("total: 50Mbit", "")
    assert pod(policy="lanes", shared=shared, egress_bandwidth="50M").policy == parse_policy(SHARED)
    assert refused(named(policy="lanes"), shared) == [
        "podlane.io/egress-bandwidth: ConfigMap lanes has no total, so the Pod must say what it may send in all. Add this annotation, as in 100M, or total to the ConfigMap."
    ]


def test_the_pods_classes_come_first_and_replace_those_of_the_same_name() -> None:
    own = "[{name: web, rate: 1Mbit, match: {port: 443}}, {name: api, rate: 20Mbit, match: {sni: a.example}}]"
    said = pod(policy="lanes", shared=SHARED, classes=own)
    assert [(c.name, str(c.rate)) for c in said.policy.classes] == [
        ("web", "1Mbit"),
        ("api", "20Mbit"),
        ("backup", "1Mbit"),
    ]
    assert said.warnings == ()


def test_shared_matches_that_can_decide_nothing_any_more_are_left_out() -> None:
    said = pod(policy="lanes", shared=SHARED, classes="[{name: bulk, rate: 1Mbit, match: {port: 800-900}}]")
    assert [str(m) for m in said.policy.classes[2].match] == ["host backup.example.com"]
    everything = "[{name: bulk, rate: 1Mbit, match: [{port: 873}, {host: '*.example.com'}]}]"
    said = pod(policy="lanes", shared=SHARED, classes=everything)
    assert [c.name for c in said.policy.classes] == ["bulk", "api"]
    assert said.warnings == (
        "Class backup of ConfigMap lanes is left out: the classes of podlane.io/classes take all of its traffic.",
    )


@pytest.mark.parametrize(
    ("value", "name"),
    [("lanes", "lanes"), (" lanes\n", "lanes"), ("a.b-c", "a.b-c"), ("", None), ("../secrets/x", None), ("A", None),
     ("a" * 254, None), ("a/b", None), ("lanes%2e", None), ("-a", None)],
    ids=["plain", "spaces", "dots", "empty", "path", "capital", "long", "slash", "percent", "dash"],
)  # fmt: skip
def test_only_what_can_be_a_config_maps_name_is_one(value: str, name: str | None) -> None:
    assert shared_policy_name(named(policy=value)) == name
    if name is None:
        assert refused(named(policy=value)) == [
            f"podlane.io/policy: {value!r} is not the name of a ConfigMap. Write its metadata.name, as in shared-lanes."
        ]


def test_no_annotation_names_no_config_map() -> None:
    assert shared_policy_name({}) is None


# --- what is refused -------------------------------------------------------------------------------------------------

ONE_PROBLEM: dict[str, tuple[dict[str, str], str]] = {
    "no limit at all": (
        {},
        'podlane.io/egress-bandwidth: The Pod is to carry Podlane, but no limit is set. Add this annotation, as in 100M, or podlane.io/policy with the name of a ConfigMap; or set the Pod\'s label podlane.io/inject to "false" or podlane.io/mode to "none".',
    ),
    "classes without a total": (
        named(classes=API),
        "podlane.io/egress-bandwidth: The classes have nothing to share. Add what the Pod may send in all, as in 100M.",
    ),
    "a misspelt annotation": (
        named(egress_bandwidth="1M", egress_bandwith="1M"),
        "podlane.io/egress-bandwith: There is no such annotation. Did you mean podlane.io/egress-bandwidth?",
    ),
    "the label as an annotation": (
        {INJECT_LABEL: "true", **named(egress_bandwidth="1M")},
        "podlane.io/inject: This is a label, not an annotation. Move it to metadata.labels.",
    ),
    "a bandwidth as policies write it": (
        named(egress_bandwidth="10Mbit"),
        "podlane.io/egress-bandwidth: '10Mbit' is not a Kubernetes quantity. Write 10M for 10 Mbit/s.",
    ),
    "milli": (
        named(egress_bandwidth="10m"),
        "podlane.io/egress-bandwidth: '10m' is thousandths of a bit per second: a quantity's m is milli. Write 10M for Mbit/s.",
    ),
    "the bandwidth plugin's, wrong": (
        {EGRESS: "10Mbit"},
        "kubernetes.io/egress-bandwidth: '10Mbit' is not a Kubernetes quantity. Write 10M for 10 Mbit/s.",
    ),
    "ingress": (
        named(egress_bandwidth="10M", ingress_bandwidth="10Mbit"),
        "podlane.io/ingress-bandwidth: '10Mbit' is not a Kubernetes quantity. Write 10M for 10 Mbit/s.",
    ),
    "ingress alone": (
        named(ingress_bandwidth="10M"),
        "podlane.io/egress-bandwidth: What the Pod may receive is limited, what it may send is not. Add this annotation, as in 100M.",
    ),
    "ingress of a class, and no total": (
        named(egress_bandwidth="10M", classes="[{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 1}}]"),
        "podlane.io/classes: classes[0].ingress: Class a limits what it receives, but the bandwidth of what arrives is not given. Add podlane.io/ingress-bandwidth, as in 100M.",
    ),
    "ingress of a class beyond the total": (
        named(egress_bandwidth="10M", ingress_bandwidth="1M",
              classes="[{name: a, rate: 1Mbit, ingress: {rate: 2Mbit}, match: {port: 1}}]"),
        "podlane.io/classes: classes[0].ingress.rate: Cannot guarantee 2 Mbit/s inside 1 Mbit/s. Lower the rate of class a or raise podlane.io/ingress-bandwidth to 2M.",
    ),
    "ingress of classes together": (
        named(egress_bandwidth="10M", ingress_bandwidth="2M",
              classes="[{name: a, rate: 1Mbit, ingress: {rate: 2Mbit}, match: {port: 1}}, "
                      "{name: b, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 2}}]"),
        "podlane.io/ingress-bandwidth: Cannot guarantee 3 Mbit/s inside 2 Mbit/s. Lower the rates of the classes or raise podlane.io/ingress-bandwidth to 3M.",
    ),
    "on-failure: ajar": (
        named(egress_bandwidth="10M", on_failure="ajar"),
        "podlane.io/on-failure: 'ajar' is not one of the values. Write open or closed.",
    ),
    "datapath": (
        named(egress_bandwidth="10M", datapath="proxy"),
        "podlane.io/datapath: 'proxy' is not one of the values. Write relay, step-aside or ebpf.",
    ),
    "mesh": (
        named(egress_bandwidth="10M", mesh="consul"),
        "podlane.io/mesh: 'consul' is not one of the values. Write auto, istio, linkerd or none.",
    ),
    "log level": (
        named(egress_bandwidth="10M", log_level="loud"),
        "podlane.io/log-level: 'loud' is not one of the values. Write debug, info, warning or error.",
    ),
    "timeout": (
        named(egress_bandwidth="10M", detection_timeout="1"),
        "podlane.io/detection-timeout: '1' is not a duration. Write a number and a unit, as in 500ms, 1s or 5m.",
    ),
    "ports": (
        named(egress_bandwidth="10M", exclude_outbound_ports="25;26"),
        """podlane.io/exclude-outbound-ports: '25;26' is not a port. Write a number from 1 to 65535 or a range such as "8000-8100".""",
    ),
    "networks": (
        named(egress_bandwidth="10M", exclude_outbound_cidrs="10.0.0.1/8"),
        "podlane.io/exclude-outbound-cidrs: '10.0.0.1/8' has address bits behind its prefix. Write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address.",
    ),
    "cpu": (
        named(egress_bandwidth="10M", cpu_limit="500M"),
        "podlane.io/cpu-limit: '500M' is 500000000 CPUs, more than any node has. Write 500m for thousandths of a CPU.",
    ),
    "memory in milli": (
        named(egress_bandwidth="10M", memory_limit="64m"),
        "podlane.io/memory-limit: '64m' is 0.064 bytes of memory, with which the sidecar cannot start. Write 64Mi.",
    ),
    "memory without a suffix": (
        named(egress_bandwidth="10M", memory_request="64"),
        "podlane.io/memory-request: '64' is 64 bytes of memory, with which the sidecar cannot start. Write a suffix, as in 64Mi.",
    ),
    "negative cpu": (
        named(egress_bandwidth="10M", cpu_request="-1"),
        "podlane.io/cpu-request: '-1' is less than nothing. Write a number without a sign.",
    ),
    "a request above the limit": (
        named(egress_bandwidth="10M", memory_request="1Gi", memory_limit="512Mi"),
        "podlane.io/memory-request: 1Gi is more than the limit of 512Mi. Lower it, or raise podlane.io/memory-limit.",
    ),
    "classes that are no list": (
        named(egress_bandwidth="10M", classes="{name: a}"),
        "podlane.io/classes: This is not a list of classes. Start each class with '- ', as under classes in a policy.",
    ),
    "classes that are empty": (
        named(egress_bandwidth="10M", classes=""),
        "podlane.io/classes: This is not a list of classes. Start each class with '- ', as under classes in a policy.",
    ),
    "classes that are no YAML": (
        named(egress_bandwidth="10M", classes="[{name: a"),
        "podlane.io/classes: line 1, column 10: Not valid YAML or JSON: expected ',' or '}', but got '<stream end>'. Mend the text there; docs/reference/policy.md has examples.",
    ),
    "a class's own mistake": (
        named(egress_bandwidth="10M", classes="[{name: a, rate: 1Mbit, match: {prot: 1}}]"),
        "podlane.io/classes: classes[0].match[0]: There is no key prot. Did you mean port?",
    ),
    "a mark": (
        named(egress_bandwidth="10M", classes="[{name: a, rate: 1Mbit, match: {mark: 1}}]"),
        "podlane.io/classes: classes[0].match[0].mark: The sidecar writes the mark itself, so it cannot tell traffic apart by it. Match by port, cidr, source, application or name, or use podlane tc.",
    ),
    "too much for the total": (
        named(egress_bandwidth="10M", classes=API),
        "podlane.io/classes: classes[0].rate: Cannot guarantee 20 Mbit/s inside 10 Mbit/s. Lower the rate of class api or raise podlane.io/egress-bandwidth to 20M.",
    ),
    "too much together": (
        named(egress_bandwidth="10M", classes="[{name: a, rate: 6Mbit, match: {port: 1}}, "
              "{name: b, rate: 6500kbit, match: {port: 2}}]"),
        "podlane.io/egress-bandwidth: Cannot guarantee 12.5 Mbit/s inside 10 Mbit/s. Lower the rates of the classes or raise podlane.io/egress-bandwidth to 12500k.",
    ),
    "too much for the bandwidth plugin's": (
        {EGRESS: "10M", **named(classes="[{name: a, rate: 6Mbit, match: {port: 1}}, {name: b, rate: 6Mbit, "
                                "match: {port: 2}}]")},
        "kubernetes.io/egress-bandwidth: Cannot guarantee 12 Mbit/s inside 10 Mbit/s. Lower the rates of the classes or raise podlane.io/egress-bandwidth to 12M.",
    ),
    "a default class that is no mapping": (
        named(egress_bandwidth="10M", default_class="1Mbit"),
        "podlane.io/default-class: '1Mbit' is not a mapping. Write keys and values, as in {rate: 1Mbit, ceil: 50Mbit}.",
    ),
    "a default class's own mistake": (
        named(egress_bandwidth="10M", default_class="{rte: 1Mbit}"),
        "podlane.io/default-class: There is no key rte. Did you mean rate?",
    ),
    "a default class's value": (
        named(egress_bandwidth="10M", default_class="{rate: 2Mbit, ceil: 1Mbit}"),
        "podlane.io/default-class: ceil: Class default cannot be held to 1 Mbit/s while 2 Mbit/s is guaranteed to it. Lower the rate to 1Mbit or raise the ceil to 2Mbit.",
    ),
    "a shared policy that is not there": (
        named(policy="lanes"),
        "podlane.io/policy: The Pod's namespace has no ConfigMap lanes with the key policy.yaml. Create it, or remove the annotation.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_PROBLEM)
def test_one_problem(case: str) -> None:
    annotations, words = ONE_PROBLEM[case]
    assert refused(annotations) == [words]


SHARED_PROBLEMS = {
    "no YAML": (
        "a: [",
        {},
        "line 1, column 5: Not valid YAML or JSON: expected the node content, but found '<stream end>'. Mend the text there; docs/reference/policy.md has examples.",
    ),
    "empty": ("", {}, "This is not a policy. Write keys and values; docs/reference/policy.md has examples."),
    "an unknown key": ("total: 1Mbit\nclases: []", {}, "There is no key clases. Did you mean classes?"),
    "a total without a unit": ("total: 5", {}, "total: 5 has no unit. Write bits per second with a unit, as in 5Mbit."),
    "a shaper that the sidecar does not have": (
        "{total: 1Mbit, shaper: tbf}",
        {},
        "shaper: The sidecar shares the total by guarantees, not by tbf. Write shaper: htb, or use podlane tc.",
    ),
    "a class behind the Pod's own, and one that is replaced": (
        SHARED.replace("873", "99999"),
        {"classes": API},
        "classes[1].match[0].port[0]: 99999 is outside the ports there are. Write numbers from 1 to 65535.",
    ),
    "a match that hides another": (
        SHARED.replace("{host: backup.example.com}", "{port: 873, protocol: tcp}"),
        {"classes": "[{name: x, rate: 1Mbit, match: {port: 1}}, {name: y, rate: 1Mbit, match: {port: 2}}]"},
        "classes[1].match[1]: This match (port 873 and protocol tcp) can never decide: everything it takes is taken by classes[1].match[0] before it. Move it before that one, or remove it.",
    ),
    "classes that are no list": ("{total: 1Mbit, classes: 5}", {}, "classes: 5 is not a list. Start each entry with '- '."),
    "a default": ("{total: 10Mbit, default: {ceil: 1}}", {}, "default.ceil: 1 has no unit. Write bits per second with a unit, as in 1Mbit."),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED_PROBLEMS)
def test_a_problem_of_the_shared_policy_is_told_where_it_is_written(case: str) -> None:
    shared, annotations, words = SHARED_PROBLEMS[case]
    assert refused(named(policy="lanes", **annotations), shared) == [
        f"podlane.io/policy: ConfigMap lanes, policy.yaml: {words}"
    ]


def test_all_problems_are_told_at_once() -> None:
    said = refused(
        named(
            egress_bandwidth="10Mbit",
            classes="[{name: a, rate: 5, match: {port: 0}}]",
            default_class="{rate: 1}",
            log_level="loud",
            clases="",
        )
    )
    assert [problem.split(": ")[0] for problem in said] == [
        "podlane.io/clases",
        "podlane.io/egress-bandwidth",
        "podlane.io/classes",
        "podlane.io/classes",
        "podlane.io/default-class",
        "podlane.io/log-level",
    ]


def test_several_problems_are_a_list() -> None:
    with pytest.raises(AnnotationsError) as error:
        pod(log_level="loud")
    first, *lines = str(error.value).splitlines()
    assert first == "2 problems in the Pod's annotations:"
    assert [line[: len("  - podlane.io/")] for line in lines] == ["  - podlane.io/"] * 2


MANY = {
    "matches": (
        named(egress_bandwidth="1G", classes=f"[{{name: a, rate: 1Mbit, match: [{'{port: 1}, ' * 501}]}}]"),
        "podlane.io/classes: 501 matches are more than a Pod's policy may have. Merge them into 500 or fewer: a match may list many names, ports and networks.",
    ),
    "matches together": (
        named(policy="lanes", classes=f"[{{name: a, rate: 1Mbit, match: [{'{port: 1}, ' * 498}]}}]"),
        "podlane.io/classes: 501 matches, with those of the shared policy, are more than a Pod's policy may have. Merge them into 500 or fewer: a match may list many names, ports and networks.",
    ),
    "ports": (
        named(egress_bandwidth="1G", exclude_outbound_ports=",".join(map(str, range(1, 102)))),
        "podlane.io/exclude-outbound-ports: 101 are too many. Merge them into 100 ranges or networks, or fewer.",
    ),
    "entries": (
        named(egress_bandwidth="1G", classes=f"[{'1, ' * 501}]"),
        "podlane.io/classes: 501 matches are more than a Pod's policy may have. Merge them into 500 or fewer: a match may list many names, ports and networks.",
    ),
    "values": (
        named(egress_bandwidth="1G", classes=f"[{'1,' * 100_001}]"),
        "podlane.io/classes: More than 100000 values and lines are too many for a policy. Shorten it.",
    ),
    "comparing": (
        named(egress_bandwidth="10G", classes=json.dumps(
            [{"name": f"c{i}", "rate": "1Mbit", "match": {"cidr": f"10.{i}.0.0/16", "port": list(range(1000, 1800, 2))}} for i in range(200)]
        )),
        "podlane.io/classes: classes: To find out which of these matches can never decide takes too long. Write fewer matches, or fewer ports, networks and names in each.",
    ),
    "aliases": (
        named(egress_bandwidth="1G", classes="[&a [1,2,3,4,5,6,7,8,9], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], "
              "&c [*b,*b,*b,*b,*b,*b,*b,*b,*b], &d [*c,*c,*c,*c,*c,*c,*c,*c,*c], [*d,*d,*d]]"),
        "podlane.io/classes: By its aliases the text stands for too much. Write it without.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
def test_what_would_keep_the_webhook_or_the_kernel_busy_is_refused(case: str) -> None:
    annotations, words = MANY[case]
    assert refused(annotations, SHARED) == [words]


def test_errors_stay_short_whatever_was_written() -> None:
    with pytest.raises(AnnotationsError) as error:
        pod(egress_bandwidth="1G", classes=f"[{'{}, ' * 400}]", default_class="x" * 100_000)
    assert any("further values are wrong. Mend these first." in p.message for p in error.value.problems)
    text = str(error.value)
    assert len(text) < 5000
    assert text.endswith(f"\n  - and {len(error.value.problems) - 20} more")
    [problem] = [p for p in error.value.problems if p.path == "podlane.io/default-class"]
    assert problem.message.startswith("'xxx")
    assert problem.message.endswith(" is not a mapping. Write keys and values, as in {rate: 1Mbit, ceil: 50Mbit}.")


# --- the digest ------------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_meaning() -> None:
    assert pod(egress_bandwidth="1000k").digest == pod(egress_bandwidth="1M").digest
    assert effective({INGRESS: "1M", EGRESS: "1M"}).digest != pod(egress_bandwidth="1M").digest
    assert len(pod(egress_bandwidth="1M").digest) == 64


def test_whatever_is_in_force_changes_the_digest() -> None:
    base = {"egress_bandwidth": "100M"}
    changes = {
        "egress_bandwidth": "99M", "classes": API, "default_class": "{ceil: 1Mbit}", "exclude_outbound_ports": "25",
        "exclude_outbound_cidrs": "10.0.0.0/8", "exclude_inbound_ports": "25", "exclude_inbound_cidrs": "10.0.0.0/8",
        "detection_timeout": "2s", "datapath": "relay", "mesh": "none", "log_level": "info",
        "cpu_request": "1m", "cpu_limit": "1", "memory_request": "64Mi", "memory_limit": "64Mi", "image": "podlane:1",
    }  # fmt: skip
    digests = [pod(**{**base, key: value}).digest for key, value in changes.items()]
    assert len({*digests, pod(**base).digest}) == len(changes) + 1
    assert pod(**base, policy="lanes", shared=SHARED).digest not in digests


# --- whatever people write -------------------------------------------------------------------------------------------

_WORDS = ["10M", "5", API, "{rate: 1Mbit}", "[]", "{}", "- a", "[[1]]", "[{match: 5}]", "[{name: [a], match: {port: 1}}]",
          "null", "lanes", "relay", "*a", "&a [*a]", "? [a]", "2020-13-45", "\x00", "é"]  # fmt: skip
annotation_names = st.one_of(st.sampled_from(ANNOTATIONS), st.sampled_from([EGRESS, INGRESS, "podlane.io/x"]))  # fmt: skip
texts = st.one_of(st.sampled_from(_WORDS), st.text(max_size=20))


@given(st.dictionaries(annotation_names, texts, max_size=6), st.one_of(st.none(), st.just(SHARED), texts))
def test_any_annotations_are_a_policy_or_refused_with_reasons(annotations: dict[str, str], shared: str | None) -> None:
    problems = None
    try:
        said = effective(annotations, shared=shared)
    except AnnotationsError as error:
        problems = error.problems
    if problems is None:
        assert policy_from_document(said.document) == said.policy
    else:
        assert problems
        assert {p.path for p in problems} <= set(ANNOTATIONS) | set(annotations)


def test_another_process_can_be_told_of_problems() -> None:
    with pytest.raises(AnnotationsError) as raised:
        effective({f"{PREFIX}egress-bandwidth": "fast", f"{PREFIX}ingress-bandwidth": "slow"})
    told = pickle.loads(pickle.dumps(raised.value))
    assert (str(told), told.problems) == (str(raised.value), raised.value.problems)
    assert len(told.problems) == 2
