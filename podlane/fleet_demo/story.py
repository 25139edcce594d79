"""The story of the fleet's demo: what is said to the control plane, what becomes of it, and whether it came true."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.text import Text

from podlane.errors import DemoError
from podlane.fleet.client import FleetClient
from podlane.fleet_demo.fleet_topology import FleetTopology
from podlane.fleet_demo.parts import CALLS, CALLS_FIRST, CALLS_TIGHT, LABEL, NODES, SHOP, SHOP_FIRST, SHOP_MORE
from traffic_policy.policy_file import policy_from_document

_POLL: Final = 0.05
_PATIENCE: Final = 30.0
"""Seconds for what takes one or two on an idle machine."""
_SETTLE: Final = 2.5
"""Seconds until TCP fills what it may have, and agents have reported a second of that."""
_MEASURE: Final = 3.0
_SLACK: Final = 1.03
"""A class may send its burst besides, and clocks are read before and after counters."""
_USED: Final = 0.8
"""Of its ceil, at least: programs that take what they get."""
_REPORTS: Final = 0.4
"""By so much a sum of three seconds may differ: agents report once a second, each at its own time."""
_SOAK: Final = 2
_TIGHT_SOAK: Final = 15
"""Longer than the gate takes."""
_FACTOR: Final = 2.0

Rates = Mapping[tuple[str, str], float]
"""By node and lane, in bit/s."""
_T = TypeVar("_T")


@dataclass
class FleetStory:
    """Tells it on ``out``; ``problems`` is what did not come true."""

    topology: FleetTopology
    out: Console
    problems: list[str] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    def play(self) -> None:
        """From the first policy to the one that is taken back. Raises :class:`DemoError` when something breaks."""
        self._joined()
        self._first_policies()
        self._good_canary()
        self._canary_taken_back()

    def end_traffic(self) -> None:
        """End all transfers: whether every byte has arrived."""
        self._title("The traffic ends.")
        transfers = self.topology.finish()
        for each in transfers:
            if not each.complete:
                self._tell(
                    False, f"{each.lane}: {each.problem or f'{each.sent} bytes were sent, {each.received} arrived'}"
                )
        whole = sum(each.complete for each in transfers)
        amount = sum(each.sent for each in transfers) / (1 << 20)
        self._tell(whole == len(transfers), f"{whole} of {len(transfers)} connections held all the time, and every "
                   f"byte of {amount:.0f} MiB arrived")  # fmt: skip

    def _joined(self) -> None:
        self._title("Five nodes, each with an agent and two Pods: one of the shop, one with calls.")
        client = self._client()
        self._said("podlane clusters add demo; podlane join-token demo --node node-1 ...")

        def connected() -> list[str]:
            return sorted(each["node"] for each in client.items(client.about("agents")) if each["state"] != "away")

        self._until("five agents", lambda: len(connected()) == len(NODES))
        nodes = connected()
        self._tell(nodes == sorted(NODES), f"{len(nodes)} agents have joined by one-time tokens, over mutual TLS")

    def _first_policies(self) -> None:
        self._title("A policy for the shop and one for calls are published to all.")
        for name, document in ((SHOP, SHOP_FIRST), (CALLS, CALLS_FIRST)):
            self._said(f"podlane policy apply {name} --file {name}.yaml --selector {LABEL}={name}")
            client = self._draft(name, document)
            client.ask("POST", client.about("policies", name, "publish"))
            self._in_force(name, document, time.monotonic())
        self.topology.start_traffic()
        self._wait(_SETTLE)
        self._held(SHOP, SHOP_FIRST, greedy=True)
        self._held(CALLS, CALLS_FIRST)

    def _good_canary(self) -> None:
        self._title("The shop gets more, step by step: a canary first.")
        self._said(f"podlane policy apply {SHOP} --file {SHOP}.yaml --selector {LABEL}={SHOP} --draft")
        self._said(f"podlane rollout start {SHOP} --stages 1 --soak {_SOAK}s")
        client = self._draft(SHOP, SHOP_MORE)
        began = time.monotonic()
        wish = {"stages": [{"count": 1}], "soak": _SOAK}
        client.ask("POST", client.about("policies", SHOP, "publish"), {"rollout": wish})
        self._reached(client, SHOP, 1)
        self._canary(SHOP, SHOP_MORE, time.monotonic() - began)
        found = self._until("the rollout's end", lambda: self._ended(client, SHOP))
        took = time.monotonic() - began
        good = found["state"] == "done"
        why = f" ({found['reason']})" if found["reason"] else ""
        self._tell(good, f"it stayed good for {_SOAK} s on each step: the rollout is {found['state']} after "
                   f"{took:.1f} s{why}")  # fmt: skip
        self._in_force(SHOP, SHOP_MORE)
        self._wait(_SETTLE)
        self._held(SHOP, SHOP_MORE, greedy=True)

    def _canary_taken_back(self) -> None:
        self._title("Calls get far too little by mistake: 2.5 Mbit/s for a program that wants 6.")
        gates = f"--max-throttled {_FACTOR:g} --max-dropped {_FACTOR:g}"
        self._said(f"podlane policy apply {CALLS} --file {CALLS}.yaml --selector {LABEL}={CALLS} --draft")
        self._said(f"podlane rollout start {CALLS} --stages 1 --soak {_TIGHT_SOAK}s {gates}")
        client = self._draft(CALLS, CALLS_TIGHT)
        began = time.monotonic()
        # One agent: the gate waits for a thousand packets, which takes it long enough for us to look.
        wish = {"stages": [{"count": 1}], "soak": _TIGHT_SOAK, "gates": {"throttled": _FACTOR, "dropped": _FACTOR}}
        client.ask("POST", client.about("policies", CALLS, "publish"), {"rollout": wish})
        self._reached(client, CALLS, 1)
        canaries = self._canary(CALLS, CALLS_TIGHT, time.monotonic() - began)
        readings = [(time.monotonic(), self.topology.sent(CALLS))]

        def ended() -> Any:
            # Only what was read before it was taken back is of it.
            reading = time.monotonic(), self.topology.sent(CALLS)
            found = self._ended(client, CALLS)
            if found is None:
                readings.append(reading)
            return found

        found = self._until("the gate", ended)
        taken_back = self._taken_back_at(client)
        (begun, before), (end, after) = readings[0], readings[-1]
        rates = _rates(before, after, max(end - begun, _POLL))
        took = f"{taken_back - began:.1f} s after it was published"
        self._tell(found["state"] == "taken back", f"{took} it is {found['state']}: {found['reason']}")
        self._in_force(CALLS, CALLS_FIRST, taken_back)
        held = [rate for (node, _), rate in rates.items() if node in canaries]
        others = [rate for (node, _), rate in rates.items() if node not in canaries]
        if held:
            told = f"meanwhile calls had {_span(held)} Mbit/s there, {_span(others)} elsewhere"
            self._tell(max(held) < min(others), told)
        self._wait(_SETTLE)
        self._held(CALLS, CALLS_FIRST)

    def _taken_back_at(self, client: FleetClient) -> float:
        """When a rollout was taken back, by the audit log, on the clock of :func:`time.monotonic`."""
        at = [each["at"] / 1e3 for each in client.items(client.about("events")) if each["kind"] == "RolloutTakenBack"]
        return time.monotonic() - (time.time() - at[-1] if at else 0.0)

    def _canary(self, policy: str, document: Mapping[str, Any], took: float) -> list[str]:
        """Tell which nodes have it in the kernel: one should."""
        there = self._nodes_with(policy, document)
        names = " and ".join(there) or "nobody"
        self._tell(len(there) == 1, f"{names} has it after {took:.1f} s, {len(NODES) - len(there)} agents do not")
        return there

    def _in_force(self, policy: str, document: Mapping[str, Any], since: float | None = None) -> None:
        """Wait until all agents say that they have it, and look whether it is so."""
        client = self._client()
        path = client.about("policies", policy, "progress")
        self._until(f"{policy} on all agents", lambda: client.ask("GET", path)["in_force"] == len(NODES))
        after = "" if since is None else f" after {time.monotonic() - since:.2f} s"
        there = self._nodes_with(policy, document)
        self._tell(len(there) == len(NODES), f"{policy}: {len(NODES)} of {len(NODES)} agents say that it is in force"
                   f"{after}, and tc shows the same limits on {len(there)} nodes")  # fmt: skip

    def _held(self, app: str, document: Mapping[str, Any], *, greedy: bool = False) -> None:
        """Measure, and compare with the policy. ``greedy``: the programs take what they get."""
        begun, before = time.monotonic(), self.topology.sent(app)
        self._wait(_MEASURE)
        rates = _rates(before, self.topology.sent(app), time.monotonic() - begun)
        client = self._client()
        seconds = int(_MEASURE)
        lanes = client.ask("GET", client.about("figures"), query={"policy": app, "seconds": seconds})["lanes"]
        figures = {each["lane"]: sum(each["bytes"]) * 8 / seconds for each in lanes}
        for lane, (_, ceil) in _limits(document).items():
            found = [rate for (_, name), rate in rates.items() if name == lane]
            over = max(found) > ceil * _SLACK
            below = min(found) < (ceil * _USED if greedy else 1)
            told = "OVER" if over else "FAR BELOW" if below else "within"
            rate = f"{lane}: {_span(found)} Mbit/s in each Pod"
            self._tell(not over and not below, f"{rate}, {told} its ceil of {ceil / 1e6:g}")
            counted = figures.get(lane, 0.0)
            good = abs(counted - sum(found)) <= _REPORTS * sum(found)
            told = "as do" if good else "NOT as do"
            self._tell(good, f"{lane}: the control plane counts {counted / 1e6:.1f} Mbit/s on all nodes, {told} the "
                       f"kernels ({sum(found) / 1e6:.1f})")  # fmt: skip

    def _nodes_with(self, app: str, document: Mapping[str, Any]) -> list[str]:
        """The nodes on which the kernel has exactly these limits."""
        wanted = _limits(document)
        return [node for node in NODES if self.topology.limits(node, app) == wanted]

    def _draft(self, name: str, document: Mapping[str, Any]) -> FleetClient:
        client = self._client()
        wish = {"document": document, "selector": {LABEL: name}}
        client.ask("PUT", client.about("policies", name, "draft"), wish)
        return client

    def _reached(self, client: FleetClient, policy: str, agents: int) -> None:
        """Wait until so many agents have the revision of its rollout."""
        path = client.about("policies", policy, "rollout")

        def having() -> bool:
            seen = client.ask("GET", path)["progress"]
            return seen is not None and seen["having"] >= agents

        self._until("the canary", having)

    def _ended(self, client: FleetClient, policy: str) -> Any:
        found = client.ask("GET", client.about("policies", policy, "rollout"))
        return None if found["state"] == "running" else found

    def _client(self) -> FleetClient:
        # The server closes connections that were silent for some seconds.
        return FleetClient(self.topology.client.context)

    def _until(self, what: str, look: Callable[[], _T]) -> _T:
        """Look again and again until something is found. Raises :class:`DemoError` after a while."""
        deadline = time.monotonic() + _PATIENCE
        while not (found := look()):
            self.topology.check()
            if time.monotonic() > deadline:
                raise DemoError(f"There is no sign of {what} after {_PATIENCE:g} s.")
            time.sleep(_POLL)
        return found

    def _wait(self, seconds: float) -> None:
        time.sleep(seconds)
        self.topology.check()

    def _title(self, text: str) -> None:
        self.out.print()
        self.out.print(Text(f"{time.monotonic() - self._begun:5.1f} s  {text}", style="bold"), soft_wrap=True)

    def _said(self, command: str) -> None:
        self.out.print(Text(f"  $ {command}", style="cyan"), soft_wrap=True)

    def _tell(self, good: bool, line: str) -> None:
        if not good:
            self.problems.append(line)
        self.out.print(Text(f"  {'✓' if good else '✗'} {line}", style="green" if good else "red"), soft_wrap=True)


def _limits(document: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Guarantee and ceil of each lane in bit/s."""
    policy = policy_from_document(document)
    return {each.name: (each.rate.bits_per_second, each.ceil.bits_per_second) for each in policy.resolved()
            if any(each.name == c.name for c in policy.classes)}  # fmt: skip


def _rates(before: Mapping[tuple[str, str], int], after: Mapping[tuple[str, str], int], seconds: float) -> Rates:
    return {key: (after[key] - before[key]) * 8 / seconds for key in before}


def _span(rates: list[float]) -> str:
    low, high = f"{min(rates) / 1e6:.1f}", f"{max(rates) / 1e6:.1f}"
    return low if low == high else f"{low} to {high}"
