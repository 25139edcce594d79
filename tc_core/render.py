"""A tree as the commands that make it, for people: what ``podlane explain`` shows, and what tc(8) can run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tc_core.apply.plan import ObservedInterface, Step, plan
from tc_core.handles import ROOT, Handle
from tc_core.kernel import AddClass, AddFilter, AddLink, AddQdisc, Change, SetLink
from tc_core.model import (
    BpfFilter,
    Cake,
    Clsact,
    FwFilter,
    HtbClass,
    HtbQdisc,
    Link,
    Netem,
    Observed,
    Prio,
    RedirectFilter,
    Tbf,
)
from tc_core.trees import Lanes, Tree


def tc_commands(tree: Tree, interface: str) -> list[str]:
    """The commands that make the tree on an untouched interface, in order, with comment lines (``# ...``) between.

    Joined by newlines they are a shell script.
    """
    return list(_lines(plan(ObservedInterface(interface, Observed(Link(interface))), tree), {interface: tree}))


def lanes_commands(lanes: Lanes, interface: str) -> list[str]:
    """The same for all that a policy becomes, the ifb for what arrives included."""
    trees: dict[str, Tree] = {interface: lanes.tree}
    if lanes.ingress is not None:
        trees[lanes.ingress.device] = lanes.ingress.tree
    return list(_lines(plan(ObservedInterface(interface, Observed(Link(interface))), lanes), trees))


def _lines(steps: Iterable[Step], trees: Mapping[str, Tree]) -> Iterator[str]:
    last = ""
    for interface, change in steps:
        comment = _comment(trees[interface], change)
        if comment and comment != last:
            yield f"# {comment}"
            last = comment
        yield change.command(interface)


def _comment(tree: Tree, change: Change) -> str:
    """What a command is about; empty where it goes on with the one before."""
    match change:
        case AddQdisc(HtbQdisc(default_minor=minor, handle=handle)):
            return f"HTB at the root; what no filter selects goes to {Handle(handle.major, minor)}. r2q is not used."
        case AddQdisc(Tbf(rate=rate, parent=parent)):
            return f"{tree.names.get(parent, 'all traffic together')}: at most {rate.human}"
        case AddQdisc(Prio(bands=bands)):
            return f"strict priority, {bands} bands: {', '.join(_bands(tree))}"
        case AddQdisc(Cake(parent=parent, bandwidth=bandwidth)) if parent == ROOT and bandwidth:
            return f"CAKE: at most {bandwidth.human}, shared fairly between hosts and flows"
        case AddQdisc(Netem()):
            return "a worse network, to rehearse with"
        case AddLink():
            return "what arrives is sent through an ifb, where it can be shaped"
        case AddQdisc(Clsact()):
            return "a place for the filter that sends it there"
        case AddClass(traffic_class):
            return _class_words(tree, traffic_class)
        case AddFilter(BpfFilter(rules=rules)) if rules:
            targets = dict.fromkeys(str(tree.names.get(rule.target, rule.target)) for rule in rules)
            return f"what packets themselves tell selects the class, in this order: {', '.join(targets)}"
        case AddFilter(RedirectFilter(program=program)) if program:
            return "podlane loads a program here that also finds the class by the socket; a command can only redirect"
        case AddFilter(FwFilter() as fw):
            return f"mark {fw.mark}: {tree.names.get(fw.target, fw.target)}"
        case AddFilter(BpfFilter()):
            return "bits 24-31 of the mark select the class (as classic BPF)"
        case SetLink():
            return "smaller segments, so that no flow waits long behind another's in a FIFO"
        case _:
            return ""


def _bands(tree: Tree) -> list[str]:
    """Names of the bands, first to last."""
    handles = sorted(handle for handle in tree.names if handle.minor)
    return [tree.names[handle] for handle in handles]


def _class_words(tree: Tree, traffic_class: HtbClass) -> str:
    name = tree.names.get(traffic_class.handle, str(traffic_class.handle))
    if traffic_class.is_inner:
        return f"{name}: {traffic_class.rate.human} for all classes together"
    return (
        f"class {name}: {traffic_class.rate.human} guaranteed, at most {traffic_class.ceil.human}, "
        f"priority {traffic_class.prio}"
    )
