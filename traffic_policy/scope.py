"""The parts of a policy that each kind of classification supports. No limit is ignored silently. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from traffic_policy.errors import Problem
from traffic_policy.policy import Bound, Match, Quic, Requests, Shaper, TrafficPolicy, TransportProtocol
from traffic_policy.settings import Datapath

_RELAY_REMEDY = "Use datapath: relay, or remove it."


def _beyond_one_interface(policy: TrafficPolicy) -> list[Problem]:
    """Problems for whatever knows no other Pods."""
    if policy.budget is None:
        return []
    message = "A budget is shared by Pods, and what shapes this interface knows no other."
    remedy = (
        "Remove budget, or have the agents of nodes hold the Pods (podlane agent; docs/how-to/traffic-policies.md)."
    )
    return [Problem("budget", message, remedy)]


def beyond_packets(policy: TrafficPolicy) -> list[Problem]:
    """Problems for ``podlane tc`` and the library, which see packet headers and marks but no content."""
    problems = _beyond_one_interface(policy)
    problems += [
        Problem(
            path,
            f"{_written(match, 'sni', 'host', 'alpn')} can be seen only by a proxy that reads the first bytes.",
            "Use podlane run or podlane sidecar, or match by port, cidr, source, protocol or mark.",
        )
        for path, match in _matches(policy)
        if match.needs_content
    ]
    problems += (
        Problem(
            f"{path}.direction",
            "A packet does not tell who opened its connection.",
            "Use podlane run or podlane sidecar, or remove it and match by what is in the packet.",
        )
        for path, match in _matches(policy)
        if match.direction is not Bound.OUTBOUND
    )
    if policy.requests is not Requests.FIRST:
        problems.append(
            Problem("requests", "Requests can be seen only by a proxy.", "Remove it, or use podlane run or sidecar.")
        )
    if policy.quic is not Quic.CLASSIFY:
        problems.append(
            Problem("quic", "Traffic control alone refuses nothing.", "Remove it, or use podlane run or sidecar.")
        )
    return problems


def beyond_sidecar(policy: TrafficPolicy) -> list[Problem]:
    """Problems for ``podlane run`` and a sidecar with a policy of its own."""
    return [*_beyond_one_interface(policy), *beyond_marks(policy)]


def beyond_marks(policy: TrafficPolicy) -> list[Problem]:
    """Problems for all that select classes by marks which they write themselves."""
    problems = []
    if policy.shaper is not Shaper.HTB:
        problems.append(
            Problem(
                "shaper",
                f"The sidecar shares the total by guarantees, not by {policy.shaper}.",
                "Write shaper: htb, or use podlane tc.",
            )
        )
    problems += _unseen_in_what_arrives(policy)
    problems += (
        Problem(
            f"{path}.mark",
            "The sidecar writes the mark itself, so it cannot tell traffic apart by it.",
            "Match by port, cidr, source, application or name, or use podlane tc.",
        )
        for path, match in _matches(policy)
        if match.mark
    )
    return problems


def needs_names(policy: TrafficPolicy) -> bool:
    """Whether the class of what arrives depends on names, so that its packets cannot tell it
    (:mod:`tc_core.compile.ingress_classifier`).

    Not where every match of the classes that limit what they receive comes before all that ask for a name.
    """
    limited = {c.name for c in policy.classes if c.ingress} if policy.ingress else set()
    names_decide = False
    for name, match in policy.rules():
        names_decide = names_decide or match.needs_content
        if names_decide and name in limited:
            return True
    return False


def beyond_step_aside(policy: TrafficPolicy) -> list[Problem]:
    """Problems for the step-aside datapath, which sees only first packets."""
    problems = []
    if policy.requests is not Requests.FIRST:
        problems.append(
            Problem(
                "requests",
                "With datapath: step-aside a connection's first packets are all that is seen, so its requests cannot "
                "be followed.",
                _RELAY_REMEDY,
            )
        )
    return problems


def beyond_ebpf(policy: TrafficPolicy, *, at_node: bool = False) -> list[Problem]:
    """Problems for the programs in the kernel, which see the first packets of connections.

    ``at_node``: at the node's end of a Pod's link they see all that arrives before it is shaped.
    """
    remedy = "Use datapath: step-aside, or remove it."
    problems = [
        Problem("requests", "With datapath: ebpf a connection's first packets are all that is seen.", _RELAY_REMEDY)
        for _ in range(policy.requests is not Requests.FIRST)
    ]
    if needs_names(policy) and not at_node:
        said = "With datapath: ebpf names do not decide about what arrives."
        problems.append(Problem("ingress", said, _RELAY_REMEDY))
    problems += (
        Problem(
            f"{path}.direction",
            "With datapath: ebpf answers to clients are told apart with TCP alone, and by names in QUIC.",
            remedy,
        )
        for path, match in _matches(policy)
        if match.direction is not Bound.OUTBOUND
        and match.protocol
        and not match.accepts_protocol(TransportProtocol.TCP)
        and not match.quic_ports
    )
    return problems


def beyond(policy: TrafficPolicy, datapath: Datapath | str | None) -> list[Problem]:
    """Problems for a datapath; the relay can do all that a policy can ask for."""
    if datapath == Datapath.STEP_ASIDE:
        return beyond_step_aside(policy)
    return beyond_ebpf(policy) if datapath == Datapath.EBPF else []


def beyond_agent(policy: TrafficPolicy) -> list[Problem]:
    """Problems for the node agent, which steps aside and has no relay."""
    remedy = "Remove it, or have the Pod carry a sidecar (podlane.io/mode: sidecar)."
    return [
        *beyond_marks(policy),
        *(
            Problem(each.path, "The node agent sees the first packets of a connection alone.", remedy)
            for each in beyond_step_aside(policy)
        ),
    ]


def _unseen_in_what_arrives(policy: TrafficPolicy) -> Iterator[Problem]:
    """Matches that would take packets of the wrong connections, where that can matter to a limit."""
    if not policy.ingress or not any(c.ingress for c in policy.classes):
        return
    for path, match in _matches(policy):
        if match.direction is Bound.INBOUND and not (match.needs_content or match.port or match.application):
            yield Problem(
                f"{path}.direction",
                "A packet that arrives does not tell who opened its connection; by the port it can be told.",
                "Add the port here that clients connect to, or remove ingress from the classes.",
            )


def _matches(policy: TrafficPolicy) -> Iterator[tuple[str, Match]]:
    for i, traffic_class in enumerate(policy.classes):
        for j, match in enumerate(traffic_class.match):
            yield f"classes[{i}].match[{j}]", match


def _written(match: Match, *keys: str) -> str:
    return " and ".join(key for key in keys if getattr(match, key))
