"""Policies in force by traffic control alone: no marks, no proxy, every shaper and every kind of queue.

From the text of a policy to the kernel and back, in the fake and in the real one alike; then what only a real one has:
tc(8), and traffic. Policies that the running kernel cannot have are left out of the real half here; the stock kernel
(tests/stock) has everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import get_args

import pytest
from tclab import DEVICE, Pair, veth_pair
from trafficlab import ATTEMPTS, SETTLE, at_once, payload, settles_at

from tc_core.apply.execute import ApplyError, apply, clear, execute
from tc_core.apply.plan import observe_interface, plan
from tc_core.compile.ingress_classifier import IngressClassifier
from tc_core.compile.mark_tree import compile_policy
from tc_core.compile.packet_tree import compile_ingress, lanes_of
from tc_core.errors import MissingFeatureError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import Handle
from tc_core.kernel import Kernel
from tc_core.probe import features
from tc_core.probe.capability import Features
from tc_core.qdiscs import OurQdisc
from tc_core.trees import Lanes
from traffic_policy.marks import ClassIds
from traffic_policy.policy_file import parse_policy

HERE = features.probe() if os.geteuid() == 0 else features.ALL_FEATURES
POLICIES = {
    "htb": "{total: 50Mbit, classes: [{name: a, rate: 10Mbit, match: {application: ssh}}, {name: b, rate: 1Mbit, queue: fifo, match: {source: 10.0.0.0/8}}]}",
    "tbf": "{total: 5Mbit, shaper: tbf}",
    "prio": "{total: 9Mbit, shaper: prio, classes: [{name: a, priority: 7, ceil: 2Mbit, match: {port: 1-99}}, {name: b, match: {protocol: udp}}]}",
    "cake": "{total: 5Mbit, shaper: cake}",
    "rehearsal": "{total: 5Mbit, rehearsal: {delay: 20ms, jitter: 1ms, loss: 0.5%}}",
    "rehearsal of all": "{total: 5Mbit, shaper: tbf, rehearsal: {delay: 20ms}}",
    "fair": "{total: 5Mbit, default: {queue: fair}, classes: [{name: a, rate: 1Mbit, queue: sfq, match: {port: 1}}]}",
    "queues": "{total: 5Mbit, classes: [{name: a, rate: 1Mbit, queue: cake, match: {port: 1}}, {name: b, rate: 1Mbit, queue: low-latency, match: {port: 2}}]}",
    "ingress": "{total: 5Mbit, ingress: {total: 9Mbit}, classes: [{name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 1}}]}",
}  # fmt: skip


def _runs_here(text: str) -> bool:
    try:
        lanes_of(parse_policy(text), DEVICE, HERE)
    except MissingFeatureError:
        return False
    return True


RUN_HERE = {name: text for name, text in POLICIES.items() if _runs_here(text)}
FAKE = "fake"
ON_BOTH = [
    *(pytest.param(FAKE, text, id=f"{name}, fake") for name, text in POLICIES.items()),
    *(pytest.param("real", text, id=f"{name}, real", marks=pytest.mark.root) for name, text in RUN_HERE.items()),
]


@pytest.fixture
def busy_pair() -> Iterator[Pair]:
    """A pair of its own: its connections end with the test."""
    with veth_pair() as made:
        yield made


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """An interface ``eth0`` beside ``lo``, untouched, in the kernel that the test's parameter names."""
    if request.param == FAKE:
        return FakeKernel(DEVICE, "lo")
    real: Pair = request.getfixturevalue("pair")
    return real.kernel


def compiled(text: str, features: Features = HERE) -> Lanes:
    return lanes_of(parse_policy(text), DEVICE, features)


def on(kernel: Kernel, text: str) -> Lanes:
    """What a policy becomes on this kernel; the fake has everything."""
    return compiled(text, features.ALL_FEATURES if isinstance(kernel, FakeKernel) else HERE)


def install(pair: Pair, text: str) -> None:
    apply(pair.kernel, DEVICE, compiled(text))


# --- in both kernels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "text"), ON_BOTH, indirect=["kernel"])
def test_the_second_time_nothing_changes_and_clearing_leaves_no_trace(kernel: Kernel, text: str) -> None:
    untouched = kernel.observe(DEVICE), set(kernel.interfaces())
    wanted = on(kernel, text)
    assert apply(kernel, DEVICE, wanted).done
    assert plan(observe_interface(kernel, DEVICE), wanted) == ()
    clear(kernel, DEVICE)
    assert (kernel.observe(DEVICE), set(kernel.interfaces())) == untouched


def test_these_policies_need_every_kind_of_qdisc() -> None:
    found: set[str] = set()
    for text in POLICIES.values():
        kernel = FakeKernel(DEVICE)
        apply(kernel, DEVICE, on(kernel, text))
        found |= {q.kind for name in kernel.interfaces() for q in kernel.observe(name).qdiscs if q.handle.major}
    assert found == {field.default for kind in get_args(OurQdisc) for field in fields(kind) if field.name == "kind"}


@pytest.mark.parametrize("kernel", [FAKE, pytest.param("real", marks=pytest.mark.root)], indirect=True)
def test_every_policy_can_follow_every_other(kernel: Kernel) -> None:
    wanted = [on(kernel, text) for text in (POLICIES if isinstance(kernel, FakeKernel) else RUN_HERE).values()]
    for i, one in enumerate(wanted):
        for other in wanted[i + 1 :]:
            for each in (one, other):
                apply(kernel, DEVICE, each)
                assert plan(observe_interface(kernel, DEVICE), each) == ()
        apply(kernel, DEVICE, one)
        assert plan(observe_interface(kernel, DEVICE), one) == ()


NAMES = """
total: 5Mbit
ingress: {total: 9Mbit}
classes:
  - {name: a, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {sni: a.example.com}}
  - {name: b, rate: 1Mbit, ingress: {rate: 1Mbit}, match: {port: 7, direction: both}}
"""


def _can_tell(ingress_classifier: IngressClassifier) -> bool:
    """Whether the running kernel has it."""
    return {IngressClassifier.SOCKETS: HERE.sockets.available, IngressClassifier.CONNMARK: HERE.connmark.available}.get(
        ingress_classifier, True
    )


TOLD_ON_BOTH = [
    *(
        pytest.param(FAKE, ingress_classifier, id=f"{ingress_classifier}, fake")
        for ingress_classifier in IngressClassifier
    ),
    *(pytest.param("real", t, id=f"{t}, real", marks=pytest.mark.root) for t in IngressClassifier if _can_tell(t)),
]


@pytest.mark.parametrize(("kernel", "ingress_classifier"), TOLD_ON_BOTH, indirect=["kernel"])
def test_what_the_sidecar_makes_is_found_again_and_leaves_no_trace(
    kernel: Kernel, ingress_classifier: IngressClassifier
) -> None:
    """Marks tell the classes of what is sent; the teller and packets those of what arrives."""
    untouched = kernel.observe(DEVICE), set(kernel.interfaces())
    policy = parse_policy(NAMES)
    ids = ClassIds.assign(c.name for c in policy.classes)
    all_there = features.ALL_FEATURES if isinstance(kernel, FakeKernel) else HERE
    ingress = compile_ingress(policy, DEVICE, all_there, ids, ingress_classifier=ingress_classifier)
    wanted = Lanes(compile_policy(policy, all_there, ids), ingress, ids)
    assert apply(kernel, DEVICE, wanted).done
    assert plan(observe_interface(kernel, DEVICE), wanted) == ()
    clear(kernel, DEVICE)
    assert (kernel.observe(DEVICE), set(kernel.interfaces())) == untouched


# --- by the shell ----------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("text", RUN_HERE.values(), ids=RUN_HERE)
def test_tc_and_ip_make_the_same(pair: Pair, text: str) -> None:
    """The commands of a plan, run by a shell, do what we do: nothing is left to be changed."""
    for name, change in plan(observe_interface(pair.kernel, DEVICE), compiled(text)):
        pair.on_client("sh", "-ec", change.command(name))
    # What tc(8) rounds, as releases before 6.10 do with bursts, counts for no difference.
    assert [change.command(name) for name, change in plan(observe_interface(pair.kernel, DEVICE), compiled(text))] == []


@pytest.mark.root
def test_a_refusal_in_the_middle_is_made_good_by_the_next_call(pair: Pair) -> None:
    """The ifb's name is taken by a bridge, which the kernel says only when ours is to be made."""
    made = compiled(POLICIES["ingress"])
    steps = plan(observe_interface(pair.kernel, DEVICE), made)
    pair.on_client("ip", "link", "add", "ifb-eth0", "type", "bridge")
    with pytest.raises(ApplyError, match="File exists") as caught:
        execute(pair.kernel, DEVICE, steps)
    assert caught.value.report.done
    pair.on_client("ip", "link", "del", "ifb-eth0")
    apply(pair.kernel, DEVICE, made)
    assert plan(observe_interface(pair.kernel, DEVICE), made) == ()


# --- measured --------------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.measure
def test_classes_without_marks_keep_their_ceils(busy_pair: Pair) -> None:
    install(busy_pair, """
        total: 100Mbit
        classes:
          - {name: a, rate: 1Mbit, ceil: 10Mbit, match: {port: 5001, source: 10.87.0.0/24}}
          - {name: never, rate: 1Mbit, ceil: 2Mbit, match: {port: 5002, cidr: 10.88.0.0/24}}
          - {name: b, rate: 1Mbit, ceil: 40Mbit, match: {port: 5002, protocol: tcp}}
          - {name: marked, rate: 1Mbit, ceil: 20Mbit, match: {mark: 0x40/0xf0}}
        default: {ceil: 5Mbit}
    """)  # fmt: skip
    streams = {"10Mbit": busy_pair.stream(5001), "40Mbit": busy_pair.stream(5002), "20Mbit": busy_pair.stream(5003, 0x45), "5Mbit": busy_pair.stream(5004)}  # fmt: skip
    at_once(*(lambda r=rate, s=stream: settles_at(s, r, 3.0) for rate, stream in streams.items()))


@pytest.mark.root
@pytest.mark.measure
@pytest.mark.parametrize("shaper", [name for name in ("tbf", "cake") if getattr(HERE, name).available])
def test_the_total_holds_without_classes(busy_pair: Pair, shaper: str) -> None:
    install(busy_pair, f"{{total: 20Mbit, shaper: {shaper}}}")
    settles_at(busy_pair.stream(5001), "20Mbit", 3.0)


@pytest.mark.root
@pytest.mark.measure
def test_what_arrives_is_held_to_its_own_limits(busy_pair: Pair) -> None:
    install(busy_pair, """
        total: 100Mbit
        ingress: {total: 40Mbit}
        classes:
          - {name: a, rate: 1Mbit, ingress: {rate: 5Mbit, ceil: 10Mbit}, match: {port: 5001, cidr: 10.87.0.2/32}}
    """)  # fmt: skip
    limited, rest, upload = (
        busy_pair.stream(5001, download=True),
        busy_pair.stream(5002, download=True),
        busy_pair.stream(5003),
    )
    at_once(
        lambda: settles_at(limited, "10Mbit", 3.0),
        lambda: settles_at(rest, "30Mbit", 3.0),
        lambda: settles_at(upload, "100Mbit", 3.0),
    )


# Not every kernel has these two; the stock kernel, which tests/stock runs, does.
if HERE.prio.available:

    @pytest.mark.root
    @pytest.mark.measure
    def test_strict_priority_lets_the_first_go_first_and_holds_it_to_its_ceil(busy_pair: Pair) -> None:
        install(busy_pair, """
            total: 20Mbit
            shaper: prio
            classes:
              - {name: bulk, priority: 5, match: {port: 5002}}
              - {name: first, priority: 0, ceil: 8Mbit, match: {port: 5001}}
        """)  # fmt: skip
        # The last to be served is connected first: later, the others would keep its handshake waiting for ever.
        _starved, bulk, first = (busy_pair.stream(port) for port in (5003, 5002, 5001))
        for _ in range(ATTEMPTS):
            before = busy_pair.kernel.qdisc_counters(DEVICE)
            got, bulk_got = at_once(*(lambda s=s: s.goodput(3.0, after=SETTLE) for s in (first, bulk)))
            after = busy_pair.kernel.qdisc_counters(DEVICE)
            assert got <= 1.05 * payload("8Mbit", first)
            assert got + bulk_got <= 1.05 * payload("20Mbit", first)
            # The last band sends only while the others have nothing, as after a loss; a hundredth is plenty.
            queues = [Handle(number) for number in (0x101, 0x102, 0x103)]
            *_, rest = sent = [after[q].bytes - before[q].bytes for q in queues]
            if got >= 0.95 * payload("8Mbit", first) and bulk_got >= 0.9 * payload("12Mbit", bulk):
                assert rest < sum(sent) / 100
                return
        pytest.fail(f"first {got:.0f}, bulk {bulk_got:.0f} bit/s")


if HERE.netem.available:

    @pytest.mark.root
    @pytest.mark.measure
    @pytest.mark.parametrize("shaper", ["htb", "tbf"])
    def test_a_rehearsed_delay_is_felt(busy_pair: Pair, shaper: str) -> None:
        install(busy_pair, f"{{total: 50Mbit, shaper: {shaper}, rehearsal: {{delay: 60ms}}}}")
        stream = busy_pair.stream(5001)
        stream.goodput(1.0)
        assert stream.round_trip >= 0.055
