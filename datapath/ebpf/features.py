"""Whether ``datapath: ebpf`` works here: tried by attaching the programs in a scratch network namespace."""

from __future__ import annotations

import socket
from typing import Final

from datapath.ebpf.hooks import Point, TcxHook, hook_at
from datapath.ebpf.libbpf import BpfError
from datapath.ebpf.policy_maps import HashKeys, compile_table
from datapath.ebpf.program import EGRESS, load
from datapath.netfilter.backend import NET_ADMIN_REMEDY, has_net_admin
from datapath.netfilter.features import Check
from datapath.routing.table import RoutingTable
from tc_core.probe.scratch import in_scratch_namespace
from traffic_policy.errors import PodlaneError
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy

_NAME: Final = "ebpf"
_INSTEAD: Final = "Without it, `--datapath step-aside` does the same with a look at first packets in user space."


def probe() -> Check:
    """Whether the programs can be loaded and attached, and how."""
    if not has_net_admin():
        return Check(_NAME, False, "not tried without CAP_NET_ADMIN", NET_ADMIN_REMEDY)
    try:
        way = in_scratch_namespace(attach)
    except PermissionError:
        return Check(_NAME, False, "could not be tried: making a scratch namespace takes CAP_SYS_ADMIN", "Use sudo.")
    except (PodlaneError, OSError) as error:
        return Check(_NAME, False, str(error).splitlines()[0], _INSTEAD)
    return Check(_NAME, True, f"names are decided in the kernel; attached by {way}", "")


def reason_against() -> str:
    """Why the programs cannot be loaded by this process, here; empty if they can."""
    try:
        _load()
    except PodlaneError as error:
        return str(error).splitlines()[0]
    return ""


def _load() -> None:
    table = RoutingTable.from_policy(TrafficPolicy.model_validate({"total": "1Mbit"}))
    load(compile_table(table, ClassIds.assign([]), HashKeys.draw())).close()


def attach() -> str:
    """Attach the programs to lo, and take them away; which hook was used. Raises :class:`PodlaneError`."""
    table = RoutingTable.from_policy(TrafficPolicy.model_validate({"total": "1Mbit"}))
    hook = hook_at(socket.if_nametoindex("lo"), EGRESS, Point.EGRESS)
    with load(compile_table(table, ClassIds.assign([]), HashKeys.draw())) as loaded:
        hook.attach(loaded.program(EGRESS))
    if not hook.attached():
        raise BpfError("what was attached is not there", 2)
    hook.detach()
    return "tcx" if isinstance(hook, TcxHook) else "clsact"
