"""A control plane as a process, and agents that speak to it by gRPC as real ones do: what pages are tried against."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx
from fleet_client import GrpcAgent, pinned_root

from control_plane.domain.volume_budget import DAY
from control_plane.store.event_store import open_store
from control_plane.store.lane_volumes import DayVolume
from fleet_api.agent_pb2 import (
    Answer,
    Applied,
    Health,
    LaneSum,
    MatchHits,
    NamesSeen,
    Question,
    Report,
    SeenName,
    WorkloadFigures,
    WorkloadState,
)
from fleet_api.desired import FleetPolicy
from node_agent.provenance import PodSources, provenance
from traffic_policy.match_key import match_key
from traffic_policy.policy_file import policy_from_document

ROOT = Path(__file__).parents[2]
NewPage = Callable[..., Any]
"""Opens a page (Playwright's) of a user who has signed in."""


@dataclass
class SimulatedAgent:
    """A node with Pods of each policy that there is: it takes what it is told, unless it is to fail."""

    agent: GrpcAgent
    version: str = "0.2.0"
    pods: int = 12
    fails: str = ""
    """Why workloads cannot have policies, if they cannot."""
    refuses: str = ""
    """A word in policies which it cannot take; only revisions that have it fail."""
    lazy: bool = False
    """It never says that it has what it was told."""
    failed: int = 0
    watched: bool = False
    """Somebody looks at its workloads."""
    stopped: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self.agent.about = {
            "version": self.version,
            "kernel": "6.12.48+deb13-amd64",
            "node_labels": {"kubernetes.io/arch": "amd64", "topology.kubernetes.io/zone": "a"},
            "abilities": ["ebpf", "fq_codel", "htb", "ifb", "tproxy"],
            "instance": "1",
        }
        thread = threading.Thread(target=self._listen, daemon=True)
        thread.start()
        self.threads.append(thread)

    def stop(self) -> None:
        self.stopped.set()
        self.agent.hang_up()
        for thread in self.threads:
            thread.join(10)

    def _listen(self) -> None:
        try:
            with self.agent.connected():
                reporting = threading.Thread(target=self._report, daemon=True)
                reporting.start()
                while not self.stopped.is_set():
                    message = self.agent.hear()
                    kind = message.WhichOneof("message")
                    if kind == "desired" and not self.lazy:
                        self._take()
                    elif kind == "watch":
                        self.watched = message.watch.others
                        if message.watch.names_every:
                            self.agent.say(names=seen_names(self.agent.node, self.agent.state.policies))
                    elif kind == "question":
                        self.agent.say(answer=self._answer(message.question))
                reporting.join(5)
        except grpc.RpcError:
            if not self.stopped.is_set():
                raise

    def _take(self) -> None:
        state = self.agent.state
        failing = [
            name
            for name, policy in state.policies.items()
            if self.fails or (self.refuses and self.refuses in policy.document)
        ]
        failures = [
            WorkloadState(workload=f"shop/{name}-7d9f-{n}", state="failed", policy=name, reason=self.fails or REFUSED)
            for name in failing
            for n in range(2)
        ]
        self.failed = len(failures)
        applied = Applied(
            revision=state.revision,
            hash=state.hash,
            programmed=self.pods - len(failures),
            failed=len(failures),
            failures=failures,
        )
        self.agent.say(applied=applied)

    def _answer(self, question: Question) -> Answer:
        """What is in force for a Pod of ours: shop/POLICY-7d9f-0 has POLICY."""
        name = question.effective_policy
        policy = self.agent.state.policies.get(name.removeprefix("shop/").removesuffix("-7d9f-0"))
        if policy is None:
            return Answer(id=question.id, refusal=f"The agent has no workload {name}.")
        document = {
            "name": name,
            "state": "programmed",
            "reason": "",
            "interface": "eth0",
            "datapath": "ebpf",
            "hash": "5d2c1b7a90e4f318" * 4,
            "policy": json.loads(policy.document),
            "lost": [],
            "warnings": [],
            "fleet_policy": policy.name,
            **provenance(PodSources(labels=dict(policy.selector)), policy.name, self.agent.state),
        }
        return Answer(id=question.id, document=json.dumps(document))

    def _report(self) -> None:
        luck = random.Random(self.agent.node)
        levels: dict[tuple[str, str], float] = {}
        while not self.stopped.wait(1.0):
            sums = {
                name: list(lane_sums(name, policy.document, luck, levels))
                for name, policy in self.agent.state.policies.items()
            }
            watched = [
                WorkloadFigures(workload=f"shop/{name}-7d9f-{n}", lanes=lanes, controller=f"Deployment/{name}")
                for name, lanes in sums.items()
                for n in range(2)
                if self.watched
            ]
            report = Report(
                at=int(time.time() * 1000), interval_ms=1000, lanes=itertools.chain(*sums.values()), workloads=watched
            )
            self.agent.say(report=report)
            self.agent.say(
                health=Health(cpu_ms=int(time.monotonic() * 9), memory_bytes=41 << 20, workloads=self.pods,
                              programmed=self.pods - self.failed, failed=self.failed)
            )  # fmt: skip


REFUSED = "act_connmark is not loaded on the node. Load the module, or use datapath: relay."


def lane_sums(name: str, document: str, luck: random.Random, levels: dict[tuple[str, str], float]) -> Iterator[LaneSum]:
    """What twelve Pods might send in a second, within what the policy lets through."""
    policy = policy_from_document(json.loads(document))
    for lane in policy.resolved():
        rate, ceil = lane.rate.bits_per_second, lane.ceil.bits_per_second
        level = levels.get((name, lane.name), luck.uniform(0.2, 0.9))
        level = min(1.0, max(0.05, level + luck.gauss(0, 0.04)))
        levels[name, lane.name] = level
        sent = int(min(ceil, rate + (ceil - rate) * 0.35) * level / 8)
        full = level > 0.85
        yield LaneSum(
            policy=name, lane=lane.name, direction="egress", bytes=sent, packets=sent // 1200,
            dropped=luck.randrange(3) if full else 0, overlimits=luck.randrange(40, 90) if full else 0,
            backlog=luck.randrange(20_000, 90_000) if full else 0, workloads=1, rate=rate, ceil=ceil,
        )  # fmt: skip


def seen_names(node: str, policies: Mapping[str, FleetPolicy]) -> NamesSeen:
    """What Pods might have asked for: half of the names of lanes, and some that no lane has."""
    luck = random.Random(node)
    found, hits = [], []
    for name, policy in policies.items():
        about = {"namespace": "shop", "policy": name, "direction": "outbound", "workload": f"shop/{name}-7d9f-0"}
        for lane in policy_from_document(json.loads(policy.document)).classes:
            for match in lane.match:
                count = luck.randrange(20, 900)
                hits.append(MatchHits(policy=name, lane=lane.name, match=match_key(match), connections=count))
                found += [
                    SeenName(**about, name=each.replace("*", "eu"), protocol=protocol, port=port, lane=lane.name,
                             decided="name", connections=count // 2)
                    for each, protocol, port in (
                        *((sni, "tls", 443) for sni in match.sni), *((host, "http1", 80) for host in match.host)
                    )
                ]  # fmt: skip
        for unsorted, protocol, port in UNSORTED:
            count = luck.randrange(1, 60)
            found.append(
                SeenName(**about, name=unsorted, protocol=protocol, port=port, lane="default", decided="default",
                         connections=count)
            )  # fmt: skip
        hits.append(MatchHits(policy=name, lane="default", connections=120))
    return NamesSeen(names=found, matches=hits)


UNSORTED = (
    ("pypi.org", "tls", 443),
    ("registry.npmjs.org", "tls", 443),
    ("metadata.internal.example.com", "http1", 80),
    ("a-name-that-is-rather-long-since-somebody-named-it-so.eu-central-1.elb.example.com", "tls", 443),
)


class Api:
    """The administrator's requests."""

    def __init__(self, url: str, token: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = self.http.request(method, path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def token(self, role: str, tenant: str = "default") -> str:
        return str(self.ask("POST", f"/v1/tenants/{tenant}/tokens", {"role": role, "title": f"a {role}"})["token"])

    def publish(
        self,
        name: str,
        document: Mapping[str, Any],
        rollout: Any = None,
        selector: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        place = f"/v1/tenants/default/policies/{name}"
        self.ask("PUT", f"{place}/draft", {"document": document, "selector": selector or {"app": name}})
        self.ask("POST", f"{place}/publish", {"rollout": rollout} if rollout else None, **{"Podlane-Reason": reason})


@dataclass
class Stage:
    """Everything that runs."""

    url: str
    token: str
    agents_port: int
    api: Api
    stack: ExitStack
    database: str = ""
    roots: bytes = b""
    agents: dict[str, SimulatedAgent] = field(default_factory=dict)

    def sent(self, policy: str, size: int) -> None:
        """So many bytes have gone through a policy's lane today, as another process of this control plane has heard."""
        with closing(open_store(self.database)) as store:
            store.volumes.add({"default": [DayVolume(int(time.time()) // DAY, policy, "backup", "egress", size)]})

    def add_agents(self, cluster: str, names: list[str], **options: Any) -> list[SimulatedAgent]:
        """Have them join and connect."""
        self.api.ask("PUT", f"/v1/tenants/default/clusters/{cluster}")
        made = []
        for name in names:
            token = self.api.ask("POST", f"/v1/tenants/default/clusters/{cluster}/join-tokens", {"node": name})["token"]
            text, _, digest = token.partition(".")
            self.roots = self.roots or pinned_root(self.agents_port, digest)
            agent = GrpcAgent(self.agents_port, name)
            agent.join(text, self.roots)
            simulated = SimulatedAgent(agent, **options)
            self.agents[name] = simulated
            made.append(simulated)
            simulated.start()
            self.stack.callback(simulated.stop)
        return made


@contextmanager
def open_stage(folder: Path, *options: str) -> Iterator[Stage]:
    """A control plane with its database in a folder; everything ends with the block."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "podlane", "control-plane", "--state", str(folder / "state"), "--port", "0"]
    command += ["--agents-port", "0", "--ready-fd", str(writer), "--rate-limit", "0", *options]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, pass_fds=[writer]
        )  # fmt: skip
    os.close(writer)
    with process, os.fdopen(reader) as ready:
        try:
            port = ready.readline().strip()
            assert port, (folder / "log").read_text()
            agents_port = int(ready.readline())
            assert process.stdout is not None
            token = process.stdout.readline().strip()
            url = f"http://127.0.0.1:{port}"
            with ExitStack() as stack:
                database = f"sqlite:{folder / 'state' / 'events.db'}"
                yield Stage(url, token, agents_port, Api(url, token), stack, database)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, (folder / "log").read_text()
