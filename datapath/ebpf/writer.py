"""Puts policies in force by programs: for ``datapath: ebpf`` what :class:`datapath.ruleset_writer.RulesetWriter` is.

No rule of netfilter is needed. Programs see every packet that leaves, and nothing depends on a process.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from daemon.log import Logger
from datapath.data_plane_settings import DataPlaneSettings
from datapath.ebpf.lane import Lane
from datapath.ebpf.node_link import NodeLink
from datapath.ebpf.policy_maps import Exclusions
from datapath.ebpf.shared_maps import LaneMaps, SharedMaps
from datapath.netfilter.capture_settings import CaptureSettings
from datapath.routing.table import RoutingTable
from datapath.ruleset_writer import Fallback
from datapath.shaping import Shaping
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy

log = Logger()


class ProgramWriter:
    """Puts policies in force at the shaped interface; one that is in force already is not put there again."""

    apart: frozenset[int] = frozenset()
    """No port is left alone because of who listens: connections reach their programs as they are."""

    def __init__(
        self,
        shaping: Shaping,
        remove_others: Callable[[], None] | None = None,
        on_fallback: Fallback | None = None,
        shared: SharedMaps | None = None,
        link: NodeLink | None = None,
    ) -> None:
        """``remove_others`` removes what an earlier process with another datapath has left; called once, when the
        programs are there. ``shared`` are maps in common with other interfaces. ``link``: the shaped interface
        is the node's end of it. ``on_fallback`` is told that nothing is to be done when this process ends."""
        self._shaping = shaping
        self._on_fallback = on_fallback
        self._link = link
        self._lane = Lane(shaping.interface, shared, link)
        self._remove_others = remove_others
        self._in_force: tuple[TrafficPolicy, ClassIds, CaptureSettings] | None = None
        self.adopted = False
        """Whether the last :meth:`write` found programs of an earlier process."""

    def write(
        self,
        policy: TrafficPolicy,
        settings: DataPlaneSettings,
        *,
        capture: bool = True,
        keep_captured: bool = False,
        keep_inbound: bool = False,
    ) -> None:
        """Put a policy in force whose classes the shaping has. Nothing is captured, so that nothing has to be kept.

        Raises what :meth:`datapath.ebpf.lane.Lane.put` raises.
        """
        del capture, keep_captured, keep_inbound
        asked = settings.capture
        wanted = policy, self._shaping.ids, asked
        if wanted == self._in_force:
            return
        self.adopted = self._lane.put(
            RoutingTable.from_policy(policy, asked.silent_ports, asked.mesh),
            self._shaping.ids,
            Exclusions(
                asked.exclude_outbound_ports,
                asked.exclude_outbound_cidrs,
                asked.exclude_inbound_ports,
                asked.exclude_inbound_cidrs,
            ),
            meaning=_meaning(policy, self._shaping.ids, asked),
            received=self._received(policy),
        )
        log.info("programs in place", interface=self._shaping.interface, adopted=self.adopted)
        self._in_force = wanted
        if self._on_fallback is not None:
            self._on_fallback((), self._shaping.ids, settings.on_failure)
        if self._remove_others is not None:
            self._remove_others()
            self._remove_others = None

    def _received(self, policy: TrafficPolicy) -> frozenset[int]:
        """The ids of classes that programs have to tell in what arrives, at the node's end."""
        received = policy.received() if self._link is not None else None
        return frozenset(self._shaping.ids[c.name] for c in received.classes) if received is not None else frozenset()

    @property
    def lasting(self) -> LaneMaps | None:
        """See :attr:`datapath.ebpf.lane.Lane.lasting`."""
        return self._lane.lasting

    @property
    def problem(self) -> str:
        """What the policy in force asks for and does not get; empty if nothing."""
        if self._in_force is None:
            return ""
        table = RoutingTable.from_policy(self._in_force[0])
        problems = []
        if (table.needs_capture or table.reads_quic) and self._lane.lasting is None:
            problems.append(
                "what the programs cannot read goes by port until there is another policy: to open the maps of an "
                "earlier process takes SYS_ADMIN"
            )
        return "; ".join(problems)

    def remove(self) -> None:
        """Take the programs away. Raises what :meth:`datapath.ebpf.lane.Lane.remove` raises."""
        self._in_force = None
        self._lane.remove()

    def close(self) -> None:
        """Let go of the maps. What is attached stays."""
        self._lane.close()

    def capture_settings(self, settings: DataPlaneSettings) -> CaptureSettings:
        """The settings as in force."""
        return settings.captured(interface=self._shaping.interface)

    def forget(self) -> None:
        """The next :meth:`write` puts the programs there again."""
        self._in_force = None

    invalidate = forget

    def missing_rules(self) -> list[str]:
        """What is missing of what was put there. Raises what :meth:`datapath.ebpf.lane.Lane.missing` raises."""
        return [] if self._in_force is None else self._lane.missing()

    def missing_routes(self) -> list[str]:
        """Nothing: there are no routes."""
        return []

    def listeners_changed(self) -> bool:
        """No: nothing depends on who listens."""
        return False


def _meaning(policy: TrafficPolicy, ids: ClassIds, asked: CaptureSettings) -> str:
    """All that decides what the programs do; rates do not."""
    rules = [(name, match.model_dump_json()) for name, match in policy.rules()]
    excluded = (
        asked.silent_ports,
        asked.exclude_outbound_ports,
        asked.exclude_outbound_cidrs,
        asked.exclude_inbound_ports,
        asked.exclude_inbound_cidrs,
    )
    mesh = [] if asked.mesh is None else [repr(asked.mesh)]
    return json.dumps([policy.quic, rules, dict(ids), [[str(each) for each in part] for part in excluded], *mesh])
