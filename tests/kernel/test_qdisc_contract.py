"""Every kind of qdisc, in the fake and in the kernel: made, read back, altered, refused and taken away alike.

Kinds that the running kernel lacks are left out of the real half here; the stock kernel has them all.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tclab import CLIENT, DEVICE, Pair, inside, veth_pair

from tc_core.bpf.mark_classifier import mark_filter
from tc_core.bpf.socket_program import socket_redirect
from tc_core.errors import InterfaceNotFoundError, KernelError
from tc_core.fake.kernel import FakeKernel
from tc_core.handles import ROOT, Handle
from tc_core.kernel import (
    AddClass,
    AddFilter,
    AddLink,
    AddQdisc,
    Change,
    ChangeQdisc,
    DeleteFilter,
    DeleteLink,
    DeleteQdisc,
    Kernel,
    ReplaceFilter,
    SetLink,
)
from tc_core.model import (
    EGRESS_HOOK,
    INGRESS_HOOK,
    HtbClass,
    Link,
    Observed,
    OtherFilter,
    RedirectFilter,
)
from tc_core.probe import features
from tc_core.qdiscs import (
    INGRESS,
    Bfifo,
    Cake,
    Clsact,
    Diffserv,
    FqCodel,
    HtbQdisc,
    Isolation,
    LeafQdisc,
    Netem,
    OtherQdisc,
    Prio,
    RootQdisc,
    Sfq,
    Tbf,
)
from traffic_policy.units import ByteCount, Duration, Rate

HERE = features.probe() if os.geteuid() == 0 else features.ALL_FEATURES
FAKE = "fake"

OneQdisc = RootQdisc | LeafQdisc

ONE = Handle(1)
MS, US = 10**6, 10**3


def tbf(rate: str, burst: int, limit: int) -> Tbf:
    return Tbf(ONE, ROOT, Rate.parse(rate), ByteCount(burst), ByteCount(limit))


def fq_codel(limit: int, target: int, interval: int, memory: int, quantum: int = 1514, *, ecn: bool = True) -> FqCodel:
    sizes = {"memory_limit": ByteCount(memory), "quantum": ByteCount(quantum)}
    return FqCodel(ONE, ROOT, limit, Duration(target), Duration(interval), flows=256, ecn=ecn, **sizes)


def sfq(limit: int, quantum: int, perturb: int, depth: int = 127) -> Sfq:
    return Sfq(ONE, ROOT, limit, ByteCount(quantum), Duration(perturb * 10**9), depth)


KINDS: dict[str, dict[str, OneQdisc]] = {
    "tbf": {
        "usual": tbf("100Mbit", 125_000, 1_000_000),
        "slow": tbf("8kbit", 1600, 3000),
        "odd": tbf("1234568bit", 4321, 54_321),
        "just below 32 bits": tbf("34Gbit", 5_000_000, 10_000_000),
        "just above 32 bits": tbf("35Gbit", 5_000_000, 10_000_000),
        "fast": tbf("400Gbit", 60_000_000, 4_000_000_000),
    },
    "prio": {
        "usual": Prio(ONE, ROOT),
        "two bands": Prio(ONE, ROOT, 2, (1, 0) * 8),
        "sixteen bands": Prio(ONE, ROOT, 16, tuple(range(15, -1, -1))),
    },
    "fq_codel": {
        "usual": fq_codel(1024, 5 * MS, 100 * MS, 2**20),
        "small": fq_codel(1, 1 * US, 10 * US, 2000, 256, ecn=False),
        "large": fq_codel(10_240, 1000 * MS, 10_000 * MS, 2**30, 60_000),
    },
    "bfifo": {
        "usual": Bfifo(ONE, ROOT, ByteCount(50_000)),
        "small": Bfifo(ONE, ROOT, ByteCount(1)),
        "large": Bfifo(ONE, ROOT, ByteCount(2**32 - 1)),
    },
    "sfq": {
        "usual": sfq(127, 1514, 10),
        "small": sfq(2, 300, 0, depth=1),
        "more than it takes": sfq(100_000, 20_000, 3600),
    },
    "cake": {
        "usual": Cake(ONE, ROOT, Rate.parse("100Mbit")),
        "unlimited": Cake(ONE, ROOT),
        "slow": Cake(ONE, ROOT, Rate.parse("8kbit"), Diffserv.BESTEFFORT, Isolation.FLOWBLIND, Duration(10**10)),
        "fast": Cake(ONE, ROOT, Rate.parse("400Gbit"), Diffserv.DIFFSERV8, Isolation.DUAL_DSTHOST, Duration(100 * US)),
        # At the end: in a change, tc(8) cannot say that mpu and the memory limit are 0 again. Our messages can.
        "everything": Cake(
            ONE,
            ROOT,
            Rate.parse("35Gbit"),
            Diffserv.DIFFSERV4,
            Isolation.DUAL_SRCHOST,
            nat=True,
            wash=True,
            ack_filter=True,
            ingress=True,
            split_gso=False,
            overhead=-14,
            mpu=84,
            memory_limit=ByteCount(2**22),
        ),
    },
    "netem": {
        "nothing": Netem(ONE, ROOT),
        "usual": Netem(ONE, ROOT, delay=Duration(100 * MS), jitter=Duration(10 * MS)),
        "everything": Netem(
            ONE,
            ROOT,
            limit=10_000,
            delay=Duration(50 * MS),
            jitter=Duration(5 * MS),
            loss_ppm=12_345,
            duplicate_ppm=20_000,
            corrupt_ppm=1,
            reorder_ppm=250_000,
            gap=5,
            rate=Rate.parse("1234568bit"),
        ),
        "hardly any": Netem(ONE, ROOT, 1, Duration(1), Duration(7), loss_ppm=100, rate=Rate.parse("35Gbit")),
        "no way through": Netem(ONE, ROOT, delay=Duration(10**10), loss_ppm=10**6, rate=Rate.parse("8kbit")),
    },
}

LEAF = HtbClass(
    Handle(9, 0x11), Handle(9), Rate(10**6), Rate(10**6), ByteCount(3000), ByteCount(3000), 0, ByteCount(3000)
)
PLACES: dict[str, list[Change]] = {"root": [], "leaf": [AddQdisc(HtbQdisc(Handle(9), 0x11)), AddClass(LEAF)]}


def in_place(qdisc: OneQdisc, place: str) -> OneQdisc:
    return qdisc if place == "root" else replace(qdisc, parent=LEAF.handle)


def on(kernel: Kernel, device: str, *changes: Change) -> None:
    for change in changes:
        kernel.apply(device, change)


def at(observed: Observed, wanted: OneQdisc) -> object:
    """What is where a qdisc should be."""
    return observed.root if wanted.parent == ROOT else observed.leaf_of(wanted.parent)


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """An interface ``eth0`` beside ``lo``, untouched, in the kernel that the test's parameter names."""
    if request.param == FAKE:
        return FakeKernel(DEVICE, "lo")
    real: Pair = request.getfixturevalue("pair")
    return real.kernel


def kernels(*needs: str) -> list[object]:
    """The fake, and the real one if it has all of this (names of :class:`Features`)."""
    there = all(getattr(HERE, need).available for need in needs)
    return [FAKE, *([pytest.param("real", marks=pytest.mark.root)] if there else [])]


@pytest.fixture(params=kernels("clsact"))
def fresh(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """The same with an interface of its own, on which nothing has ever been."""
    if request.param == FAKE:
        yield FakeKernel(DEVICE, "lo")
    else:
        with veth_pair() as made:
            yield made.kernel


# --- one qdisc, from beginning to end --------------------------------------------------------------------------------

LIVES = [
    pytest.param(which, place, first, second, id=f"{which}, {kind} at {place}: {name}", marks=marks)
    for kind, sets in KINDS.items()
    for which, marks in [(FAKE, ()), *([("real", pytest.mark.root)] if getattr(HERE, kind).available else [])]
    for place in PLACES
    for (name, first), second in zip(sets.items(), [*sets.values()][1:] + [*sets.values()][:1], strict=True)
]


@pytest.mark.parametrize(("kernel", "place", "first", "second"), LIVES, indirect=["kernel"])
def test_a_qdisc_from_beginning_to_end(kernel: Kernel, place: str, first: OneQdisc, second: OneQdisc) -> None:
    first, second = in_place(first, place), in_place(second, place)
    on(kernel, DEVICE, *PLACES[place])
    before = kernel.observe(DEVICE)

    kernel.apply(DEVICE, AddQdisc(first))
    there = kernel.observe(DEVICE)
    assert first.agrees_with(at(there, first)), at(there, first)
    assert not second.agrees_with(at(there, first))
    assert set(kernel.qdisc_counters(DEVICE)) == {q.handle for q in there.qdiscs}

    if first.can_become(second):
        kernel.apply(DEVICE, ChangeQdisc(second))
    else:
        with pytest.raises(KernelError) as caught:
            kernel.apply(DEVICE, ChangeQdisc(second))
        assert caught.value.errno == errno.EINVAL
        on(kernel, DEVICE, DeleteQdisc(first), AddQdisc(second))
    there = kernel.observe(DEVICE)
    assert second.agrees_with(at(there, second)), at(there, second)

    with pytest.raises(KernelError) as caught:
        kernel.apply(DEVICE, AddQdisc(second))
    assert caught.value.errno == errno.EEXIST
    assert kernel.observe(DEVICE) == there

    kernel.apply(DEVICE, DeleteQdisc(second))
    assert kernel.observe(DEVICE) == before


SHELL = [pytest.param([*sets.values()], id=kind) for kind, sets in KINDS.items() if getattr(HERE, kind).available]


@pytest.mark.root
@pytest.mark.parametrize("values", SHELL)
def test_the_shell_does_the_same(pair: Pair, values: list[OneQdisc]) -> None:
    """Each value made by the command that it prints, then altered into the next by the command for that."""

    def by_the_shell(change: Change, wanted: OneQdisc) -> None:
        pair.on_client("sh", "-c", change.command(DEVICE))
        found = pair.kernel.observe(DEVICE).root
        assert wanted.agrees_with(found), found

    for wanted, following in zip(values, [*values[1:], None], strict=True):
        by_the_shell(AddQdisc(wanted), wanted)
        if following is not None and wanted.can_become(following):
            by_the_shell(ChangeQdisc(following), following)
        pair.on_client("sh", "-c", DeleteQdisc(wanted).command(DEVICE))


# --- refusals, one by one --------------------------------------------------------------------------------------------

BUCKET = tbf("100Mbit", 125_000, 1_000_000)
BANDS = Prio(ONE, ROOT)
FIFO = Bfifo(Handle(0x20), Handle(1, 1), ByteCount(5000))
HTB = HtbQdisc(ONE, 0x11)
INNER = replace(LEAF, handle=Handle(1, 1), parent=ONE)
BELOW = replace(LEAF, handle=Handle(1, 2), parent=INNER.handle)
TREE = [AddQdisc(HTB), AddClass(INNER), AddClass(BELOW)]
IFB = "ifb7"
TO_IFB = RedirectFilter(INGRESS_HOOK, IFB)
TO_SELF = RedirectFilter(INGRESS_HOOK, DEVICE)
BY_SOCKET = socket_redirect(DEVICE, frozenset({1, 7}))
PROGRAM = mark_filter(ONE, {1})

# What the kernel has to have, what is done first, what is refused, with which number.
REFUSALS: list[tuple[str, str, list[Change], Change, int]] = [
    ("another root", "tbf", [AddQdisc(BUCKET)], AddQdisc(replace(FIFO, handle=ONE, parent=ROOT)), errno.EEXIST),
    ("another root by another handle", "tbf", [AddQdisc(BUCKET)], AddQdisc(replace(BUCKET, handle=Handle(2))), errno.EEXIST),
    ("a queue below nothing", "bfifo", [], AddQdisc(FIFO), errno.ENOENT),
    ("a queue below a queue", "bfifo", [AddQdisc(replace(FIFO, handle=ONE, parent=ROOT))], AddQdisc(FIFO), errno.EOPNOTSUPP),
    ("a queue for an inner class", "htb", TREE, AddQdisc(FIFO), errno.EINVAL),
    ("a queue for a band too many", "prio", [AddQdisc(BANDS)], AddQdisc(replace(FIFO, parent=Handle(1, 4))), errno.ENOENT),
    ("one band", "prio", [], AddQdisc(Prio(ONE, ROOT, 1, (0,) * 16)), errno.EINVAL),
    ("seventeen bands", "prio", [], AddQdisc(Prio(ONE, ROOT, 17)), errno.EINVAL),
    ("a map to no band", "prio", [], AddQdisc(Prio(ONE, ROOT, 2)), errno.EINVAL),
    ("a change to one band", "prio", [AddQdisc(BANDS)], ChangeQdisc(Prio(ONE, ROOT, 1, (0,) * 16)), errno.EINVAL),
    ("a bucket that holds nothing", "tbf", [], AddQdisc(replace(BUCKET, burst=ByteCount(0))), errno.EINVAL),
    ("change of a root that is not there", "tbf", [], ChangeQdisc(BUCKET), errno.ENOENT),
    ("change of a queue that is not there", "tbf", [AddQdisc(BUCKET)], ChangeQdisc(FIFO), errno.ENOENT),
    ("change of the handle", "tbf", [AddQdisc(BUCKET)], ChangeQdisc(replace(BUCKET, handle=Handle(2))), errno.EEXIST),
    ("change of the kind", "tbf", [AddQdisc(BUCKET)], ChangeQdisc(replace(FIFO, handle=ONE, parent=ROOT)), errno.EINVAL),
    ("change of htb", "htb", TREE, ChangeQdisc(HTB), errno.EINVAL),
    ("removal of a queue below nothing", "bfifo", [], DeleteQdisc(FIFO), errno.ENOENT),
    ("removal of a queue that is not there", "tbf", [AddQdisc(BUCKET)], DeleteQdisc(FIFO), errno.EINVAL),
    ("removal of a band's queue that is not there", "prio", [AddQdisc(BANDS)], DeleteQdisc(FIFO), errno.EINVAL),
    ("removal of a queue below netem that is not there", "netem", [AddQdisc(Netem(ONE, ROOT))], DeleteQdisc(FIFO), errno.ENOENT),
    ("removal by a wrong handle", "tbf", [AddQdisc(BUCKET), AddQdisc(FIFO)], DeleteQdisc(replace(FIFO, handle=Handle(0x21))), errno.EINVAL),
    ("clsact twice", "clsact", [AddQdisc(Clsact())], AddQdisc(Clsact()), errno.EEXIST),
    ("a queue where clsact goes", "clsact", [], AddQdisc(replace(FIFO, handle=Handle(0xFFFF), parent=INGRESS)), errno.EINVAL),
    ("a redirection without clsact", "redirect", [], AddFilter(TO_SELF), errno.EINVAL),
    ("a redirection twice", "redirect", [AddQdisc(Clsact()), AddFilter(TO_SELF)], AddFilter(TO_SELF), errno.EEXIST),
    ("a redirection to nowhere", "redirect", [AddQdisc(Clsact())], AddFilter(TO_IFB), errno.ENODEV),
    ("removal of a redirection that is not there", "redirect", [AddQdisc(Clsact())], DeleteFilter(TO_SELF), errno.ENOENT),
    ("a filter on a bucket", "tbf", [AddQdisc(BUCKET)], AddFilter(PROGRAM), errno.EOPNOTSUPP),
    ("a filter on no qdisc", "classic_bpf", [], AddFilter(PROGRAM), errno.EINVAL),
    ("a link twice", "ifb", [], AddLink("ifb"), errno.EEXIST),
    ("removal of a link that is no virtual one", "ifb", [], DeleteLink(), errno.EOPNOTSUPP),
]  # fmt: skip
ON_LO = ("a link twice", "removal of a link that is no virtual one")


@pytest.mark.parametrize(
    ("kernel", "name", "before", "change", "code"),
    [
        pytest.param(which, name, *rest, id=f"{name}, {which}", marks=pytest.mark.root if which != FAKE else ())
        for name, need, *rest in REFUSALS
        for which in (FAKE, *(["real"] if getattr(HERE, need).available else []))
    ],
    indirect=["kernel"],
)
def test_refusals(kernel: Kernel, name: str, before: list[Change], change: Change, code: int) -> None:
    device = "lo" if name in ON_LO else DEVICE
    on(kernel, device, *before)
    found = kernel.observe(device)
    with pytest.raises(KernelError) as caught:
        kernel.apply(device, change)
    assert caught.value.errno == code, str(caught.value)
    assert change.command(device) in str(caught.value)
    assert kernel.observe(device) == found


def test_removal_of_clsact_that_never_was(fresh: Kernel) -> None:
    """Where there was one once, the kernel says EINVAL: it keeps the place for it, with nothing in it."""
    with pytest.raises(KernelError) as caught:
        fresh.apply(DEVICE, DeleteQdisc(Clsact()))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("kernel", kernels("ifb"), indirect=True)
def test_a_link_of_an_unknown_kind(kernel: Kernel) -> None:
    with pytest.raises(KernelError) as caught:
        kernel.apply("x0", AddLink("no-such-kind"))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert set(kernel.interfaces()) == {DEVICE, "lo"}


# --- effects, one by one ---------------------------------------------------------------------------------------------

Look = Callable[[Observed], object]
WIDER = replace(BUCKET, rate=Rate(2 * 10**8), limit=ByteCount(77_777))
EFFECTS: list[tuple[str, str, list[Change], Change, Look, object]] = [
    ("a bucket tells a fifo below it", "tbf", [AddQdisc(BUCKET), AddQdisc(FIFO)], ChangeQdisc(WIDER), lambda o: o.leaf_of(FIFO.parent), replace(FIFO, limit=WIDER.limit)),
    ("a bucket keeps what is below it", "tbf", [AddQdisc(BUCKET), AddQdisc(replace(BUCKET, handle=Handle(2), parent=Handle(1, 1)))], ChangeQdisc(WIDER), lambda o: o.leaf_of(Handle(1, 1)).limit, BUCKET.limit),
    ("what is below a queue goes with it", "tbf", [AddQdisc(BUCKET), AddQdisc(FIFO)], DeleteQdisc(BUCKET), lambda o: o.qdiscs, (OtherQdisc(Handle(0), ROOT, "noqueue"),)),
    ("fewer bands", "prio", [AddQdisc(BANDS), AddQdisc(FIFO), AddQdisc(replace(FIFO, handle=Handle(0x21), parent=Handle(1, 3)))], ChangeQdisc(Prio(ONE, ROOT, 2, (0, 1) * 8)), lambda o: (o.leaf_of(Handle(1, 1)), o.leaf_of(Handle(1, 3))), (FIFO, None)),
    ("filters of bands", "prio", [AddQdisc(BANDS)], AddFilter(PROGRAM), lambda o: o.filters, (PROGRAM,)),
    ("clsact stays when the root goes", "clsact", [AddQdisc(Clsact()), AddQdisc(BUCKET)], DeleteQdisc(BUCKET), lambda o: o.ingress_qdisc, Clsact()),
    ("clsact goes with its filters", "redirect", [AddQdisc(Clsact()), AddFilter(TO_SELF)], DeleteQdisc(Clsact()), lambda o: (o.ingress_qdisc, o.ingress), (None, ())),
    ("a redirection", "redirect", [AddQdisc(Clsact())], AddFilter(TO_SELF), lambda o: (o.ingress, o.egress, o.filters), ((TO_SELF,), (), ())),
    ("a redirection elsewhere", "redirect", [AddQdisc(Clsact()), AddFilter(TO_SELF)], ReplaceFilter(replace(TO_SELF, device="lo")), lambda o: o.ingress, (replace(TO_SELF, device="lo"),)),
    ("a redirection by sockets", "sockets", [AddQdisc(Clsact()), AddFilter(TO_SELF)], ReplaceFilter(BY_SOCKET), lambda o: o.ingress, (BY_SOCKET,)),
    ("other classes by sockets", "sockets", [AddQdisc(Clsact()), AddFilter(BY_SOCKET)], ReplaceFilter(socket_redirect(DEVICE, frozenset(range(1, 255)))), lambda o: o.ingress, (socket_redirect(DEVICE, frozenset(range(1, 255))),)),
    ("no sockets any more", "sockets", [AddQdisc(Clsact()), AddFilter(BY_SOCKET)], ReplaceFilter(TO_SELF), lambda o: o.ingress, (TO_SELF,)),
    ("a redirection gone", "redirect", [AddQdisc(Clsact()), AddFilter(TO_SELF)], DeleteFilter(TO_SELF), lambda o: o.ingress, ()),
    ("another filter at the hook", "clsact", [AddQdisc(Clsact())], AddFilter(replace(PROGRAM, parent=INGRESS_HOOK)), lambda o: o.ingress, (OtherFilter(INGRESS_HOOK, "bpf", PROGRAM.prio, 3),)),
    ("a filter for what leaves", "clsact", [AddQdisc(Clsact())], AddFilter(replace(PROGRAM, parent=EGRESS_HOOK)), lambda o: (o.ingress, o.egress), ((), (OtherFilter(EGRESS_HOOK, "bpf", PROGRAM.prio, 3),))),
    ("a link down", "htb", [], SetLink(up=False), lambda o: o.link.is_up, False),
    ("a link up again", "htb", [SetLink(up=False)], SetLink(up=True), lambda o: o.link.is_up, True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "before", "change", "look", "expected"),
    [
        pytest.param(which, *rest, id=f"{name}, {which}", marks=pytest.mark.root if which != FAKE else ())
        for name, need, *rest in EFFECTS
        for which in (FAKE, *(["real"] if getattr(HERE, need).available else []))
    ],
    indirect=["kernel"],
)
def test_effects(kernel: Kernel, before: list[Change], change: Change, look: Look, expected: object) -> None:
    on(kernel, DEVICE, *before, change)
    assert look(kernel.observe(DEVICE)) == expected


# --- intermediate devices --------------------------------------------------------------------------------------------

ALIAS = "podlane: downloads of eth0, 'all of them'"


@pytest.mark.parametrize("kernel", kernels("ifb"), indirect=True)
def test_an_ifb_from_beginning_to_end(kernel: Kernel) -> None:
    before = kernel.interfaces()
    kernel.apply(IFB, AddLink("ifb", ALIAS))
    made = kernel.observe(IFB).link
    assert (made.name, made.kind, made.alias, made.is_up, made.tx_queue_len) == (IFB, "ifb", ALIAS, True, 32)
    assert kernel.interfaces() == {**before, IFB: made}
    root = kernel.observe(IFB).root
    assert isinstance(root, OtherQdisc)
    assert root.is_default
    with pytest.raises(KernelError) as caught:
        kernel.apply(IFB, AddLink("ifb", ALIAS))
    assert caught.value.errno == errno.EEXIST
    on(kernel, IFB, AddQdisc(BUCKET), DeleteQdisc(BUCKET))
    assert kernel.observe(IFB).root == root
    kernel.apply(IFB, DeleteLink())
    assert kernel.interfaces() == before
    with pytest.raises(InterfaceNotFoundError):
        kernel.apply(IFB, DeleteLink())


@pytest.mark.parametrize("kernel", kernels("ifb", "clsact", "redirect"), indirect=True)
def test_a_redirection_to_an_ifb_that_goes_away(kernel: Kernel) -> None:
    kernel.apply(IFB, AddLink("ifb"))
    on(kernel, DEVICE, AddQdisc(Clsact()), AddFilter(TO_IFB))
    assert kernel.observe(DEVICE).ingress == (TO_IFB,)
    kernel.apply(IFB, DeleteLink())
    assert kernel.observe(DEVICE).ingress == (replace(TO_IFB, device=""),)
    kernel.apply(IFB, AddLink("ifb"))
    kernel.apply(DEVICE, ReplaceFilter(TO_IFB))
    assert kernel.observe(DEVICE).ingress == (TO_IFB,)


def send_to_client(pair: Pair, count: int) -> None:
    """Datagrams of 1,000 bytes from the peer, each of which arrives."""
    receiver, sender = (inside(n, lambda: socket.socket(type=socket.SOCK_DGRAM)) for n in (pair.client, pair.server))
    with receiver, sender:
        receiver.bind((CLIENT, 0))
        receiver.settimeout(20)
        for number in range(count):
            sender.sendto(bytes([number]) * 1000, receiver.getsockname())
            assert receiver.recv(2000) == bytes([number]) * 1000


@pytest.mark.root
def test_what_arrives_passes_the_queues_of_an_ifb(pair: Pair) -> None:
    pair.kernel.apply(IFB, AddLink("ifb", ALIAS))
    on(pair.kernel, IFB, AddQdisc(BUCKET), AddQdisc(FIFO))
    on(pair.kernel, DEVICE, AddQdisc(Clsact()))
    send_to_client(pair, 3)
    assert {stats.packets for stats in pair.kernel.qdisc_counters(IFB).values()} == {0}
    pair.kernel.apply(DEVICE, AddFilter(TO_IFB))
    send_to_client(pair, 5)
    counted = pair.kernel.qdisc_counters(IFB)
    assert {handle: stats.packets for handle, stats in counted.items()} == {BUCKET.handle: 5, FIFO.handle: 5}
    # 1,000 bytes with the headers of UDP, IPv4 and Ethernet.
    assert counted[BUCKET.handle].bytes == 5 * 1042


@pytest.mark.root
def test_the_shell_redirects_alike(pair: Pair) -> None:
    for device, change in (
        (IFB, AddLink("ifb", ALIAS)),
        (DEVICE, AddQdisc(Clsact())),
        (DEVICE, AddFilter(TO_IFB)),
    ):
        pair.on_client("sh", "-e", "-c", change.command(device))
    assert pair.kernel.observe(DEVICE).ingress == (TO_IFB,)
    assert pair.kernel.observe(IFB).link.alias == ALIAS
    send_to_client(pair, 1)
    for device, change in (
        (DEVICE, DeleteFilter(TO_IFB)),
        (DEVICE, DeleteQdisc(Clsact())),
        (IFB, SetLink(up=False)),
        (IFB, DeleteLink()),
    ):
        pair.on_client("sh", "-e", "-c", change.command(device))
    assert pair.kernel.observe(DEVICE).ingress_qdisc is None
    assert IFB not in pair.kernel.interfaces()


@pytest.mark.root
@pytest.mark.parametrize("command", [
    pytest.param("protocol all prio 5 u32 match u32 0 0 action mirred egress redirect dev lo", id="by u32"),
    pytest.param("protocol ip prio 5 bpf bytecode '1,6 0 0 4294967295' action mirred egress redirect dev lo", id="of one protocol"),
    pytest.param("protocol all prio 5 bpf bytecode '1,6 0 0 4294967295' action mirred egress mirror dev lo", id="a copy"),
    pytest.param("protocol all prio 5 bpf bytecode '1,6 0 0 0' action mirred egress redirect dev lo", id="of nothing"),
    pytest.param("protocol all prio 5 bpf bytecode '1,6 0 0 4294967295'", id="without action"),
    pytest.param("protocol all prio 5 bpf bytecode '1,6 0 0 4294967295' action mirred egress mirror dev lo action mirred egress redirect dev lo", id="two actions"),
])  # fmt: skip
@pytest.mark.parametrize("hook", ["ingress", "clsact"])
def test_filters_of_others_at_the_hook_are_told_from_ours(pair: Pair, hook: str, command: str) -> None:
    pair.on_client("tc", "qdisc", "add", "dev", DEVICE, hook)
    pair.on_client("sh", "-c", f"tc filter add dev {DEVICE} ingress {command}")
    (found,) = pair.kernel.observe(DEVICE).ingress
    assert isinstance(found, OtherFilter)
    assert (found.parent, found.prio) == (INGRESS_HOOK, 5)
    pair.kernel.apply(DEVICE, AddFilter(TO_SELF))
    assert pair.kernel.observe(DEVICE).ingress == (found, TO_SELF)
    pair.kernel.apply(DEVICE, DeleteFilter(found))
    assert pair.kernel.observe(DEVICE).ingress == (TO_SELF,)


def test_what_a_fake_knows_of_a_link() -> None:
    kernel = FakeKernel(DEVICE)
    kernel.apply(IFB, AddLink("ifb", "x"))
    assert kernel.interfaces() == {DEVICE: Link(DEVICE), IFB: Link(IFB, tx_queue_len=32, kind="ifb", alias="x")}
