"""A pair of Pods, and the loads between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from select import select
from subprocess import TimeoutExpired
from typing import Final

from benchmarks import tools
from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.kind import manifests
from benchmarks.kind.agents import until_in_force
from benchmarks.kind.cluster import PATIENCE, Api, Cluster
from benchmarks.kind.figures import ACCURACY, BULK, CONNECTIONS, KEEP_ALIVE
from benchmarks.kind.manifests import APP, Place
from benchmarks.kind.settled import SETTLE, held, plugin_held
from benchmarks.kind.variants import LIMITED, WEB, Lane, Variant
from benchmarks.metrics.base import GIB, Outcome
from benchmarks.metrics.requests import FULL_RATE_CONNECTIONS
from benchmarks.stage import PAGE

_SERVER: Final = "server"
_SLACK: Final = 60.0
"""Seconds that a load may take longer than it is told, on a machine that others use too."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load gave, and how much it was: thousands of requests, or GiB."""

    outcome: Outcome
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A client (with the plugin several) and a server that are ready. ``clients``: a Pod's name for each lane."""

    cluster: Cluster
    place: Place
    variant: Variant
    address: str
    clients: Mapping[Lane, str]
    seconds: int

    def run(self, lane: Lane, argv: list[str]) -> str:
        """Run a program in the client of a lane. Raises :class:`MeasurementError`."""
        pod = self.clients[lane]
        return self.cluster.execute(self.place.namespace, pod, APP, argv, self.seconds + _SLACK)


@contextmanager
def pair(
    cluster: Cluster, api: Api, place: Place, variant: Variant, seconds: int, failed: Callable[[], None]
) -> Iterator[Pair]:
    """Create the Pods of a variant for the block, one after the other. Raises :class:`BenchmarkError`.

    Pods that are left from a turn whose end failed are removed first: they have the same names.
    ``failed`` is called while the Pods are still there, when they do not get ready or the block fails.
    """
    pods = f"/api/v1/namespaces/{place.namespace}/pods"

    def until_ready(*names: str) -> None:
        wanted = ("wait", f"--namespace={place.namespace}", "--for=condition=Ready", f"--timeout={PATIENCE:g}s")
        cluster.run(*wanted, *(f"pod/{name}" for name in names), patience=PATIENCE + 30)

    def remove_all() -> None:
        wanted = ("delete", "pod", f"--namespace={place.namespace}", "--all", f"--timeout={PATIENCE:g}s")
        cluster.run(*wanted, patience=PATIENCE + 30)

    if api.get(pods)["items"]:
        remove_all()
    try:
        api.ask("POST", pods, manifests.server(place, _SERVER))
        until_ready(_SERVER)
        address = str(api.get(f"{pods}/{_SERVER}")["status"]["podIP"])
        clients: dict[Lane, str] = {}
        for part in variant.clients:
            name = f"{variant.name}{part.suffix}"
            api.ask("POST", pods, manifests.client(place, name, variant, part, address))
            clients |= dict.fromkeys(part.lanes, name)
        until_ready(*dict.fromkeys(clients.values()))
        if variant.agent:
            until_in_force(api, place, clients[WEB])
        yield Pair(cluster, place, variant, address, clients, seconds)
    except BenchmarkError:
        failed()
        raise
    finally:
        remove_all()


def _requests(pair: Pair, headers: tuple[str, ...]) -> Loaded:
    url = f"http://{WEB.host}{PAGE}"
    said = pair.run(WEB, tools.wrk(url, connections=FULL_RATE_CONNECTIONS, seconds=pair.seconds, headers=headers))
    found = tools.read_wrk(said)
    if not found.count or found.p50 is None or found.p99 is None:
        raise MeasurementError(f"not one request was answered ({found.errors} errors)")
    values = {"per_s": found.per_second, "p50_us": found.p50, "p99_us": found.p99}
    return Loaded(Outcome(values, found.errors), found.count / 1000)


def _bulk(pair: Pair) -> Loaded:
    found = tools.read_iperf3(pair.run(WEB, tools.iperf3(WEB.host, streams=1, seconds=pair.seconds, down=False)))
    if not found.received:
        raise MeasurementError("iperf3: nothing arrived")
    return Loaded(Outcome({"gbit_s": found.gbit_s}), found.received / GIB)


def _accuracy(pair: Pair) -> Loaded:
    """All limits at the same time; what arrives is looked at in the server's Pod."""
    seconds = SETTLE + pair.seconds
    ports = {lane: lane.ports[0] for lane in LIMITED}
    with ExitStack() as stack:
        watch = manifests.worker("counts", str(seconds), *map(str, ports.values()))
        counting = stack.enter_context(pair.cluster.executing(pair.place.namespace, _SERVER, "sink", watch))
        assert counting.stdout is not None
        # Until it is looking, or has ended: what came before would not be seen.
        if not select([counting.stdout], [], [], _SLACK)[0]:
            raise MeasurementError(f"the server's Pod did not begin to look at what arrives within {_SLACK:g} s")
        counting.stdout.readline()
        for lane, port in ports.items():
            sender = manifests.worker("sender", pair.address, str(port), lane.host, "1")
            # The end of kubectl is not the end of what runs in a Pod. So this comes last there, and has its own end.
            bounded = ["timeout", f"{seconds + _SLACK:g}", *sender]
            stack.enter_context(pair.cluster.executing(pair.place.namespace, pair.clients[lane], APP, bounded))
        try:
            said, complaint = counting.communicate(timeout=seconds + _SLACK)
        except TimeoutExpired:
            raise MeasurementError("what arrived could not be looked at in time") from None
    if counting.returncode:
        raise MeasurementError(f"the uploads: {complaint.strip()[-400:]}")
    seen = json.loads(said)
    values: dict[str, float] = {}
    for lane, port in ports.items():
        assert lane.mbit is not None
        found = held(seen[str(port)], lane.mbit)
        if pair.variant.plugin:
            plugin_held(found, lane.mbit)
        values |= {
            f"share_{lane.mbit}": found.share,
            f"mbit_{lane.mbit}": found.mbit_s,
            f"beyond_{lane.mbit}_mib": found.beyond_mib,
        }
    return Loaded(Outcome(values))


LOADS: Final[Mapping[str, Callable[[Pair], Loaded]]] = {
    CONNECTIONS.name: lambda pair: _requests(pair, ("Connection: close",)),
    KEEP_ALIVE.name: lambda pair: _requests(pair, ()),
    BULK.name: _bulk,
    ACCURACY.name: _accuracy,
}
"""By the name of what they measure, in the order in which a pair of Pods has to have them."""
