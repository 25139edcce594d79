"""Checks what agents say, and takes it into their status. Whoever holds one agent's certificate may say anything: it
costs its own connection only, and bounded memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from control_plane.fleet.agent_status import AgentStatus, AgentTraffic, WatchedLane, WatchedWorkload, WorkloadFailure
from control_plane.gateway.rpc import GrpcStatus, RpcError
from fleet_api.agent_pb2 import Applied, Health, Hello, LaneSum, Report
from fleet_api.limits import MAX_FAILURES, MAX_NODE_LABELS

_MOST_ABILITIES: Final = 64
_MOST_TROUBLES: Final = 10
_MOST_SUMS: Final = 2048
_MOST_WATCHED: Final = 100
_LONGEST_NAME: Final = 400
"""Of labels (two of Kubernetes' names) and workloads."""
_LONGEST_SENTENCE: Final = 300
"""What is longer is cut."""
_LONGEST_WORD: Final = 64
_HASH: Final = 32
_SHORTEST: Final = 100
"""Milliseconds of a report: one that says less says nothing of a second."""
_DIRECTIONS: Final = frozenset(("egress", "ingress"))


def take_hello(status: AgentStatus, hello: Hello) -> None:
    """Raises :class:`RpcError`, and changes nothing then."""
    _check_words(hello.version, hello.kernel, hello.instance, *hello.abilities)
    _check_number("labels", len(hello.node_labels), MAX_NODE_LABELS)
    _check_number("abilities", len(hello.abilities), _MOST_ABILITIES)
    _check_names(*hello.node_labels, *hello.node_labels.values())
    _check_hash(hello.revision, hello.hash)
    status.version, status.kernel, status.instance = hello.version, hello.kernel, hello.instance
    status.labels, status.abilities = dict(hello.node_labels), tuple(hello.abilities)
    status.revision, status.hash, status.refusal = hello.revision, hello.hash, ""


def take_applied(status: AgentStatus, applied: Applied, told: int) -> None:
    """``told``: the newest revision that the agent can know of. Raises :class:`RpcError`, and changes nothing then."""
    if applied.revision > told:
        raise wrong(f"Revision {applied.revision} was never sent to it: {told} is the newest.")
    _check_number("failures", len(applied.failures), MAX_FAILURES)
    _check_hash(0 if applied.refusal else applied.revision, applied.hash)
    for each in applied.failures:
        _check_names(each.workload, each.state, each.policy)
    failures = tuple(
        WorkloadFailure(each.workload, each.state, _sentence(each.reason), each.policy) for each in applied.failures
    )
    status.programmed, status.failed, status.waiting = applied.programmed, applied.failed, applied.waiting
    status.failures = failures
    status.refusal = _sentence(applied.refusal)
    if not applied.refusal:
        status.revision, status.hash = applied.revision, applied.hash


def take_health(status: AgentStatus, health: Health) -> None:
    """Raises :class:`RpcError`, and changes nothing then.

    What it says of failed workloads is about all of its node, also those that have nothing of ours: a Pod whose own
    annotations are refused is no failure of what is desired. Its reason is among the troubles.
    """
    _check_number("troubles", len(health.troubles), _MOST_TROUBLES)
    status.cpu_ms, status.memory, status.workloads = health.cpu_ms, health.memory_bytes, health.workloads
    status.troubles = tuple(map(_sentence, health.troubles))


def take_report(status: AgentStatus, report: Report, now: float) -> None:
    """Raises :class:`RpcError`, and changes nothing then. ``now``: Unix seconds."""
    _check_number("sums", len(report.lanes), _MOST_SUMS)
    _check_number("workloads", len(report.workloads), _MOST_WATCHED)
    _check_number("sums of workloads", sum(len(each.lanes) for each in report.workloads), _MOST_SUMS)
    directions = {each.direction for each in report.lanes}
    for workload in report.workloads:
        _check_names(workload.workload, workload.controller)
        _check_names(*(name for each in workload.lanes for name in (each.policy, each.lane)))
        directions |= {each.direction for each in workload.lanes}
    if others := directions - _DIRECTIONS:
        raise wrong(f"{min(others)[:_LONGEST_WORD]!r} is no direction.")
    size = packets = dropped = throttled = backlog = 0
    for lane in report.lanes:
        size += lane.bytes
        packets += lane.packets
        dropped += lane.dropped
        throttled += lane.overlimits
        backlog += lane.backlog
    second = max(report.interval_ms or 1000, _SHORTEST) / 1000
    status.traffic = AgentTraffic(size / second, packets / second, dropped / second, throttled / second, backlog)
    status.reported = now
    if report.workloads or status.details is not None:
        status.details = tuple(
            WatchedWorkload(
                each.workload, each.lanes[0].policy if each.lanes else "",
                tuple(_watched(lane, second) for lane in each.lanes), each.controller,
            )
            for each in report.workloads
        )  # fmt: skip


def _watched(lane: LaneSum, second: float) -> WatchedLane:
    return WatchedLane(
        lane.bytes / second, lane.packets / second, lane.dropped / second, lane.overlimits / second, lane.backlog,
        lane.lane, lane.direction, lane.rate, lane.ceil,
    )  # fmt: skip


def wrong(what: str) -> RpcError:
    """A message that is not as the protocol has it."""
    return RpcError(GrpcStatus.INVALID_ARGUMENT, f"{what} Update the agent, or the control plane, whichever is older.")


def _check_words(*texts: str) -> None:
    for text in texts:
        if len(text) > _LONGEST_WORD or not text.isprintable():
            raise wrong(f"{text[:_LONGEST_WORD]!r} is too long for a word, or no text.")


def _check_names(*texts: str) -> None:
    for text in texts:
        if len(text) > _LONGEST_NAME or not text.isprintable():
            raise wrong(f"{text[:_LONGEST_WORD]!r} is too long for a name, or no text.")


def _check_number(what: str, number: int, most: int) -> None:
    if number > most:
        raise wrong(f"{number} {what} are too many for one message: {most} at most.")


def _check_hash(revision: int, hash: bytes) -> None:
    if len(hash) not in (0, _HASH) or (revision and not hash):
        raise wrong(f"A hash of {len(hash)} bytes is no SHA-256.")


def _sentence(text: str) -> str:
    cut = text if len(text) <= _LONGEST_SENTENCE else f"{text[: _LONGEST_SENTENCE - 1]}…"
    return "".join(character if character.isprintable() else " " for character in cut)


def known_lanes(classes: Iterable[str]) -> frozenset[str]:
    """Names of lanes that a policy with these classes has."""
    return frozenset((*classes, "default"))
