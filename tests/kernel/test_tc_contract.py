"""One suite for both kernels: whatever holds for the real one holds for the fake, errors included."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from tclab import DEVICE, Pair
from trees import VARIANTS, policy, tree_of

from tc_core.apply.execute import ApplyError, apply, clear
from tc_core.apply.plan import observe_interface, plan
from tc_core.bpf.mark_classifier import mark_filter
from tc_core.errors import InterfaceNotFoundError, KernelError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddQdisc,
    Change,
    ChangeClass,
    ChangeQdisc,
    DeleteClass,
    DeleteFilter,
    DeleteQdisc,
    Kernel,
    ReplaceFilter,
    SetLink,
)
from tc_core.model import (
    Bfifo,
    FwFilter,
    HtbClass,
    HtbQdisc,
    Link,
    Observed,
    OtherQdisc,
)
from tc_core.probe import features
from tc_core.probe.capability import Features
from traffic_policy.marks import ClassIds, Mark, class_mark
from traffic_policy.units import ByteCount, Rate

OLD = policy("100Mbit", a="20Mbit 80Mbit 1", b="10Mbit 20Mbit 4", c="5Mbit 5Mbit 7")
NEW = policy("80Mbit", b="20Mbit 30Mbit 2", d="30Mbit 40Mbit 1")

HERE = features.probe() if os.geteuid() == 0 else features.ALL_FEATURES


def _runs_here(wanted: Features) -> bool:
    """Whether the real kernel has all that the variant uses. What it has not is checked on kernels that have."""
    return getattr(HERE, {"fw": "fw", "classic bpf": "classic_bpf"}[wanted.classifier]).available and (
        HERE.fq_codel.available or not wanted.fq_codel.available
    )


FAKE = "fake"
REAL = pytest.param("real", marks=pytest.mark.root)
ON_BOTH = [
    *(pytest.param(FAKE, v, id=f"fake, {name}") for name, v in VARIANTS.items()),
    *(
        pytest.param("real", v, id=f"real, {name}", marks=pytest.mark.root)
        for name, v in VARIANTS.items()
        if _runs_here(v)
    ),
]


@pytest.fixture
def real(pair: Pair) -> Kernel:
    return pair.kernel


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """An interface ``eth0`` beside ``lo``, untouched, in the kernel that the test's parameter names."""
    return FakeKernel(DEVICE, "lo") if request.param == FAKE else request.getfixturevalue("real")


both = pytest.mark.parametrize("kernel", [FAKE, REAL], indirect=True)
both_with_variants = pytest.mark.parametrize(("kernel", "variant"), ON_BOTH, indirect=["kernel"])


# --- installing and changing -----------------------------------------------------------------------------------------


@both
def test_an_untouched_interface(kernel: Kernel) -> None:
    found = kernel.observe(DEVICE)
    assert found.qdiscs == (OtherQdisc(Handle(0), ROOT, "noqueue"),)
    assert (found.classes, found.filters) == ((), ())
    assert (found.link.name, found.link.gso_max_size, found.link.tx_queue_len) == (DEVICE, 65536, 1000)
    assert kernel.counters(DEVICE) == {}
    assert kernel.default_route_interface() is None


@both
@pytest.mark.parametrize("name", ["eth7", "", "a-name-that-is-too-long", "with space"])
def test_a_missing_interface(kernel: Kernel, name: str) -> None:
    for call in (kernel.observe, kernel.counters, lambda n: kernel.apply(n, SetLink(tx_queue_len=1))):
        with pytest.raises(InterfaceNotFoundError, match=r"eth0, lo"):
            call(name)


@both_with_variants
def test_the_second_apply_sends_nothing(kernel: Kernel, variant: Features) -> None:
    tree = tree_of(OLD, variant)
    assert apply(kernel, DEVICE, tree).done
    assert plan(observe_interface(kernel, DEVICE), tree) == ()
    assert set(kernel.counters(DEVICE)) == {tree.inner.handle, *(c.handle for c in tree.classes)}


@both_with_variants
def test_what_was_written_is_read_back(kernel: Kernel, variant: Features) -> None:
    tree = tree_of(OLD, variant)
    apply(kernel, DEVICE, tree)
    found = kernel.observe(DEVICE)
    assert found.filters == tree.filters
    assert {c.handle: (c.rate, c.ceil) for c in found.classes} == {
        c.handle: (c.rate, c.ceil) for c in (tree.inner, *tree.classes)
    }
    assert [c.handle for c in found.classes if c.is_inner] == [tree.inner.handle]
    for leaf in tree.leaves:
        there = found.leaf_of(leaf.parent)
        assert there is not None
        assert there.handle == leaf.handle


@both_with_variants
@pytest.mark.parametrize("words", ["30Mbit 80Mbit 1", "10Mbit 80Mbit 1", "20Mbit 80Mbit 6"], ids=["up", "down", "prio"])
def test_rate_and_priority_change_in_place(kernel: Kernel, variant: Features, words: str) -> None:
    apply(kernel, DEVICE, tree_of(policy(a="20Mbit 80Mbit 1"), variant))
    wanted = tree_of(policy(a=words), variant)
    assert apply(kernel, DEVICE, wanted).done == ((DEVICE, ChangeClass(wanted.classes[0])),)
    assert plan(observe_interface(kernel, DEVICE), wanted) == ()


@both_with_variants
def test_classes_come_and_go(kernel: Kernel, variant: Features) -> None:
    ids = ClassIds.assign([])
    for written in (OLD, NEW, policy("10Mbit"), OLD, policy("2Gbit", e="1Gbit 2Gbit 0")):
        ids = ids.evolve(c.name for c in written.classes)
        tree = tree_of(written, variant, ids)
        apply(kernel, DEVICE, tree)
        assert plan(observe_interface(kernel, DEVICE), tree) == ()


@both_with_variants
def test_254_classes(kernel: Kernel, variant: Features) -> None:
    tree = tree_of(policy("10Gbit", **{f"c{i}": f"1Mbit {i + 1}Mbit {i % 8}" for i in range(254)}), variant)
    apply(kernel, DEVICE, tree)
    assert plan(observe_interface(kernel, DEVICE), tree) == ()
    assert len(kernel.counters(DEVICE)) == 256


@both_with_variants
@pytest.mark.parametrize("total", ["8kbit", "1234567bit", "34Gbit", "35Gbit", "400Gbit"])
def test_rates_of_every_size_survive(kernel: Kernel, variant: Features, total: str) -> None:
    """34 Gbit/s is just below, 35 just above what 32 bits of bytes per second hold."""
    tree = tree_of(policy(total), variant)
    apply(kernel, DEVICE, tree)
    assert plan(observe_interface(kernel, DEVICE), tree) == ()
    assert {c.rate for c in kernel.observe(DEVICE).classes} == {tree.inner.rate, tree.classes[0].rate}


@both_with_variants
def test_one_kind_of_filter_and_queue_takes_over_from_another(kernel: Kernel, variant: Features) -> None:
    apply(kernel, DEVICE, tree_of(OLD, VARIANTS["classic bpf and fifo"]))
    tree = tree_of(OLD, variant)
    apply(kernel, DEVICE, tree)
    assert plan(observe_interface(kernel, DEVICE), tree) == ()


@both_with_variants
def test_removal_leaves_the_interface_as_it_was(kernel: Kernel, variant: Features) -> None:
    kernel.apply(DEVICE, SetLink(gso_max_size=40_000))
    untouched = kernel.observe(DEVICE)
    apply(kernel, DEVICE, tree_of(OLD, variant))
    assert clear(kernel, DEVICE).done
    assert kernel.observe(DEVICE) == untouched
    assert clear(kernel, DEVICE).done == ()


@both_with_variants
def test_an_interface_without_queue_length(kernel: Kernel, variant: Features) -> None:
    kernel.apply(DEVICE, SetLink(tx_queue_len=0))
    tree = tree_of(OLD, variant)
    apply(kernel, DEVICE, tree)
    assert plan(observe_interface(kernel, DEVICE), tree) == ()
    assert kernel.observe(DEVICE).link.tx_queue_len == 0


# --- failures --------------------------------------------------------------------------------------------------------


class Flaky:
    """A kernel that refuses one change."""

    def __init__(self, kernel: Kernel, position: int) -> None:
        self._kernel, self._left = kernel, position
        self.observe, self.counters, self.interfaces = kernel.observe, kernel.counters, kernel.interfaces
        self.default_route_interface, self.close = kernel.default_route_interface, kernel.close

    def apply(self, interface: str, change: Change) -> None:
        self._left -= 1
        if self._left == -1:
            raise KernelError(change.command(interface), errno.ENOBUFS, "No buffer space available")
        self._kernel.apply(interface, change)

    def __enter__(self) -> Flaky:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@both_with_variants
def test_whatever_fails_the_next_apply_completes(kernel: Kernel, variant: Features) -> None:
    ids = ClassIds.assign("abc")
    old, new = tree_of(OLD, variant, ids), tree_of(NEW, variant, ids.evolve("bd"))
    position = 0
    while True:
        clear(kernel, DEVICE)
        apply(kernel, DEVICE, old)
        planned = plan(observe_interface(kernel, DEVICE), new)
        if position == len(planned):
            break
        with pytest.raises(ApplyError) as caught:
            apply(Flaky(kernel, position), DEVICE, new)
        assert len(caught.value.report.done) == position
        apply(kernel, DEVICE, new)
        assert plan(observe_interface(kernel, DEVICE), new) == ()
        position += 1
    assert position > 5


# --- refusals, one by one --------------------------------------------------------------------------------------------

MBIT = Rate(10**6)
SIZE = ByteCount(3000)
ROOT_QDISC = HtbQdisc(Handle(1), 0x1FF)
INNER = HtbClass(Handle(1, 1), Handle(1), MBIT, MBIT, SIZE, SIZE, 0, SIZE)
LEAF = HtbClass(Handle(1, 0x101), Handle(1, 1), MBIT, MBIT, SIZE, SIZE, 3, SIZE)
FIFO = Bfifo(Handle(0x101), Handle(1, 0x101), ByteCount(50_000))
PROGRAM = mark_filter(Handle(1), {1})
BASE = [AddQdisc(ROOT_QDISC), AddClass(INNER), AddClass(LEAF), AddQdisc(FIFO), AddFilter(PROGRAM)]

REFUSALS = [
    pytest.param(BASE, AddQdisc(ROOT_QDISC), errno.EEXIST, id="a second root"),
    pytest.param(BASE, AddQdisc(replace(FIFO, handle=Handle(0x999))), errno.EEXIST, id="a second queue"),
    pytest.param(BASE, AddQdisc(replace(FIFO, parent=Handle(1, 0x155), handle=Handle(0x155))), errno.ENOENT, id="a queue for no class"),
    pytest.param(BASE[:3], ChangeQdisc(FIFO), errno.ENOENT, id="change of a queue that is not there"),
    pytest.param([], AddClass(INNER), errno.ENOENT, id="a class without root"),
    pytest.param(BASE, AddClass(LEAF), errno.EEXIST, id="a class twice"),
    pytest.param(BASE, AddClass(replace(LEAF, handle=Handle(1, 0x102), rate=Rate(0))), errno.EINVAL, id="a class with no rate"),
    pytest.param(BASE, ChangeClass(replace(LEAF, handle=Handle(1, 0x102))), errno.ENOENT, id="change of a class that is not there"),
    pytest.param(BASE, DeleteClass(replace(LEAF, handle=Handle(1, 0x102))), errno.ENOENT, id="removal of a class that is not there"),
    pytest.param(BASE, DeleteClass(INNER), errno.EBUSY, id="removal of a class with children"),
    pytest.param(BASE, AddFilter(PROGRAM), errno.EEXIST, id="a filter twice"),
    pytest.param(BASE[:3], DeleteFilter(PROGRAM), errno.ENOENT, id="removal of a filter that is not there"),
    pytest.param([], DeleteQdisc(ROOT_QDISC), errno.EINVAL, id="removal of a root that is not there"),
    pytest.param(BASE[:3], DeleteQdisc(FIFO), errno.EINVAL, id="removal of a queue that is not there"),
    pytest.param(BASE[:2], DeleteQdisc(FIFO), errno.ENOENT, id="removal of a queue whose class is not there"),
    pytest.param(BASE, DeleteQdisc(replace(ROOT_QDISC, handle=Handle(9))), errno.EINVAL, id="removal of a root by a wrong handle"),
    pytest.param([], SetLink(gso_max_size=1 << 30), errno.EINVAL, id="segments beyond the device"),
]  # fmt: skip


@both
@pytest.mark.parametrize(("before", "change", "code"), REFUSALS)
def test_refusals(kernel: Kernel, before: list[Change], change: Change, code: int) -> None:
    for each in before:
        kernel.apply(DEVICE, each)
    found = kernel.observe(DEVICE)
    with pytest.raises(KernelError) as caught:
        kernel.apply(DEVICE, change)
    assert caught.value.errno == code, str(caught.value)
    assert change.command(DEVICE) in str(caught.value)
    assert kernel.observe(DEVICE) == found


NEEDS_FW = [FAKE, *([REAL] if HERE.fw.available else [])]
FW = FwFilter(Handle(1), class_mark(1), Handle(1, 0x101))


@pytest.mark.parametrize("kernel", NEEDS_FW, indirect=True)
@pytest.mark.parametrize(("change", "code"), [
    pytest.param(DeleteClass(LEAF), errno.EBUSY, id="removal of a class that a filter is bound to"),
    pytest.param(AddFilter(replace(FW, mark=Mark(1, 0xFF))), errno.EINVAL, id="a second mask at one priority"),
    pytest.param(AddFilter(replace(PROGRAM, prio=FW.prio)), errno.EINVAL, id="a second kind at one priority"),
    pytest.param(AddFilter(FW), errno.EEXIST, id="an fw filter twice"),
])  # fmt: skip
def test_refusals_with_fw_filters(kernel: Kernel, change: Change, code: int) -> None:
    for each in (*BASE[:4], AddFilter(FW)):
        kernel.apply(DEVICE, each)
    with pytest.raises(KernelError) as caught:
        kernel.apply(DEVICE, change)
    assert caught.value.errno == code, str(caught.value)


# --- effects, one by one ---------------------------------------------------------------------------------------------

Check = Callable[[Observed], object]
EFFECTS = [
    pytest.param(ChangeClass(replace(LEAF, prio=5)), lambda o: o.class_named(LEAF.handle).prio, 5, id="priority"),
    pytest.param(ChangeQdisc(replace(FIFO, limit=ByteCount(99))), lambda o: o.leaf_of(LEAF.handle).limit.count, 99, id="queue size"),
    pytest.param(DeleteQdisc(FIFO), lambda o: o.leaf_of(LEAF.handle), None, id="queue gone"),
    pytest.param(DeleteClass(LEAF), lambda o: len(o.classes), 1, id="class gone"),
    pytest.param(DeleteClass(LEAF), lambda o: o.leaf_of(LEAF.handle), None, id="queue gone with its class"),
    pytest.param(DeleteClass(LEAF), lambda o: o.class_named(INNER.handle).is_inner, False, id="no longer inner"),
    pytest.param(ReplaceFilter(mark_filter(Handle(1), {1, 2})), lambda o: o.filters, (mark_filter(Handle(1), {1, 2}),), id="program replaced"),
    pytest.param(DeleteFilter(PROGRAM), lambda o: o.filters, (), id="filter gone"),
    pytest.param(DeleteQdisc(ROOT_QDISC), lambda o: o.qdiscs, (OtherQdisc(Handle(0), ROOT, "noqueue"),), id="all gone"),
    pytest.param(AddClass(replace(LEAF, handle=Handle(1, 0x102), parent=Handle(1, 0x177))), lambda o: o.class_named(Handle(1, 0x102)).parent, Handle(1), id="htb takes an unknown parent for none"),
    pytest.param(SetLink(gso_max_size=9000, tx_queue_len=7), lambda o: (o.link.gso_max_size, o.link.tx_queue_len), (9000, 7), id="link"),
]  # fmt: skip


@both
@pytest.mark.parametrize(("change", "look", "expected"), EFFECTS)
def test_effects(kernel: Kernel, change: Change, look: Check, expected: object) -> None:
    for each in BASE:
        kernel.apply(DEVICE, each)
    kernel.apply(DEVICE, change)
    assert look(kernel.observe(DEVICE)) == expected


def test_a_fake_starts_with_what_a_link_has() -> None:
    assert FakeKernel(DEVICE).observe(DEVICE).link == Link(DEVICE)
