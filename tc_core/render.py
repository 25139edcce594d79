"""A tree as the commands that make it, for people: what ``podlane explain`` shows, and what tc(8) can run."""

from __future__ import annotations

from collections.abc import Iterator

from tc_core.diff import diff
from tc_core.kernel import AddClass, AddFilter, AddQdisc, Change, SetLink
from tc_core.model import BpfFilter, BpfFlavour, FwFilter, HtbClass, HtbQdisc, Link, Observed, TrafficTree


def tc_commands(tree: TrafficTree, interface: str) -> list[str]:
    """The commands that make the tree on an untouched interface, in order, with comment lines (``# ...``) between.

    Joined by newlines they are a shell script. An eBPF program cannot be written as a command; its classic form, which
    does the same, stands for it.
    """
    return list(_lines(tree, interface))


def _lines(tree: TrafficTree, interface: str) -> Iterator[str]:
    last = ""
    for change in diff(tree, Observed(Link(interface))):
        comment = _comment(tree, change)
        if comment and comment != last:
            yield f"# {comment}"
            last = comment
        yield change.command(interface)


def _comment(tree: TrafficTree, change: Change) -> str:
    """What a command is about; empty where it goes on with the one before."""
    match change:
        case AddQdisc(HtbQdisc()):
            return f"HTB at the root; what no filter selects goes to {tree.default_class.handle}. r2q is not used."
        case AddClass(traffic_class):
            return _class_words(tree, traffic_class)
        case AddFilter(FwFilter() as fw):
            return f"mark {fw.mark}: {tree.names.get(fw.target, fw.target)}"
        case AddFilter(BpfFilter() as bpf):
            form = "the same as classic BPF" if bpf.flavour is BpfFlavour.EBPF else "as classic BPF"
            return f"bits 24-31 of the mark select the class ({form})"
        case SetLink():
            return "smaller segments, so that no flow waits long behind another's in a FIFO"
        case _:
            return ""


def _class_words(tree: TrafficTree, traffic_class: HtbClass) -> str:
    name = tree.names.get(traffic_class.handle, str(traffic_class.handle))
    if traffic_class.is_inner:
        return f"{name}: {traffic_class.rate.human} for all classes together"
    return (
        f"class {name}: {traffic_class.rate.human} guaranteed, at most {traffic_class.ceil.human}, "
        f"priority {traffic_class.prio}"
    )
