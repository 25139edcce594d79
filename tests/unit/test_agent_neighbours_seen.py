"""What Cilium leaves on a node, and what of it means that its bandwidth manager is on. Kernels of tests may lack fq."""

from __future__ import annotations

import pytest

from node_agent.neighbours import cilium_at
from tc_core.handles import Handle
from tc_core.model import Filter, Link, Observed, OtherFilter, OtherQdisc

ROOT = Handle(0xFFFF, 0xFFFF)
PROGRAM = OtherFilter(Handle(0xFFFF, 0xFFF2), "bpf", 1, 3)
U32 = OtherFilter(Handle(0xFFFF, 0xFFF2), "u32", 1, 3)


def uplink(*kinds: str) -> Observed:
    return Observed(Link("eth0"), tuple(OtherQdisc(Handle(0x8001 + i, 0), ROOT, kind) for i, kind in enumerate(kinds)))


@pytest.mark.parametrize(
    ("programs", "filters", "queues", "told"),
    [
        (["the program cil_from_contai"], (), ("fq",), True),
        (["the program cil_from_contai"], (), ("mq", "fq", "fq"), True),
        ([], (PROGRAM,), ("fq",), True),
        (["the program cil_from_contai"], (), ("fq_codel",), False),
        (["the program other"], (), ("fq",), False),
        ([], (U32,), ("fq",), False),
    ],
    ids=["tcx", "an interface of several queues", "clsact", "no fq", "somebody else's program", "no program"],
)
def test_its_program_and_fq_together(
    programs: list[str], filters: tuple[Filter, ...], queues: tuple[str, ...], told: bool
) -> None:
    found = cilium_at(Observed(Link("lxc0123"), ingress=filters), programs, uplink(*queues))
    assert bool(found) == told
    assert not told or "fq at eth0" in found
