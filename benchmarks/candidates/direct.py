"""No proxy at all: the network alone, and with the product's HTB tree on the Pod's interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.candidates.base import ALL, Ability, Candidate, Running
from benchmarks.capture import rules
from benchmarks.policies import BenchPolicy
from benchmarks.stage import Stage


class Direct(Candidate):
    """Nothing between client and server."""

    name = "direct"
    title = "direct"

    @property
    def abilities(self) -> frozenset[Ability]:
        return ALL - {Ability.PROXY, Ability.LANES, Ability.MANY_CLASSES}

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "the kernel"

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:  # noqa: ARG002
        yield Running(None)


class DirectHtb(Direct):
    """HTB on the interface; where a policy limits anything, its classes by port, marked by the kernel alone."""

    name = "direct-htb"
    title = "direct, HTB"

    @property
    def abilities(self) -> frozenset[Ability]:
        return ALL - {Ability.PROXY, Ability.MANY_CLASSES}

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:
        with ExitStack() as stack:
            stack.enter_context(stage.shaped(policy, by_port=True))
            if policy.limits:
                stack.enter_context(rules(stage, policy, by_port=True))
            yield Running(None)
