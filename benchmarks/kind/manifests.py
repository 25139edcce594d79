"""The objects that the benchmark makes in a cluster. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.kind.variants import LANES, LIMITED, Client, Variant
from benchmarks.stage import HTTP_PORT, IPERF_PORT, PAGE, PAGE_BYTES

Document = dict[str, Any]

MINE: Final = {"app.kubernetes.io/managed-by": "podlane-benchmarks"}
"""The label by which a namespace of an earlier run is known, and may be deleted."""
HOSTNAME: Final = "kubernetes.io/hostname"
"""The label of nodes."""
INJECT: Final = "podlane.io/inject"
MODE: Final = "podlane.io/mode"
APP, SIDECAR = "app", "podlane"
"""Containers of a client."""
_CONFIGURATION: Final = "benchmark"
_FOLDER: Final = "/bench"
_WORKERS: Final = Path(__file__).parent.parent / "workers"
_WAIT: Final = ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]
"""Waits to be used, and ends at once when it is told to: the first process of a container must ask for that."""
_NOWHERE: Final = {"podlane.io/no-such-node": "true"}
_GRACE: Final = 1
"""Seconds that Pods get to end: nothing in them has to be finished."""
# What the network namespaces of the other benchmark have, too, as far as it belongs to a Pod and not to its node.
# BBR, which some nodes have as their default, would measure itself on links as fast as these.
_SETTINGS: Final = """
set -e
cd /proc/sys/net
echo reno >ipv4/tcp_congestion_control
echo 8192 >core/somaxconn
echo 16384 >ipv4/tcp_max_syn_backlog
echo 1 >ipv4/tcp_tw_reuse
for name in netfilter/nf_conntrack_tcp_timeout_time_wait netfilter/nf_conntrack_tcp_timeout_close; do
  [ ! -e $name ] || echo 1 >$name
done
"""
_NGINX: Final = f"""
worker_processes 1;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_timeout 3600s;
  keepalive_requests 100000000;
  tcp_nodelay on;
  open_file_cache max=100 inactive=1h;
  server {{ listen {HTTP_PORT} backlog=8192; root {_FOLDER}; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything goes: a namespace, a node, and the image that client and server run.

    ``hostname``: the node's label, by which Pods choose it. Not everywhere is it the node's name.
    """

    namespace: str
    node: str
    hostname: str
    image: str


def namespace(name: str) -> Document:
    """The namespace: of Pods that have not opted in, and where a Pod may set what belongs to its own network."""
    # On clusters whose default is stricter, the sidecar's NET_ADMIN and the servers' settings would be refused.
    labels = {**MINE, "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def configuration() -> Document:
    """Files for the Pods: nginx's configuration, the page that is asked for, and our own programs. Raises OSError."""
    programs = {f"{name}.py": (_WORKERS / f"{name}.py").read_text() for name in ("sink", "sender", "counts")}
    files = {"nginx.conf": _NGINX, PAGE.removeprefix("/"): "x" * PAGE_BYTES, **programs}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _CONFIGURATION}, "data": files}


def worker(name: str, *arguments: str) -> list[str]:
    """The command of one of :mod:`benchmarks.workers` in a Pod."""
    return ["python3", f"{_FOLDER}/{name}.py", *arguments]


def server(place: Place, name: str) -> Document:
    """What is sent to: nginx, iperf3 and the sink; never injected. It is ready when all three listen."""
    sinks = [port for lane in LIMITED for port in lane.ports]
    programs = {
        "nginx": (["nginx", "-c", f"{_FOLDER}/nginx.conf", "-g", "daemon off;"], HTTP_PORT),
        "iperf3": (["iperf3", "--server"], IPERF_PORT),
        "sink": (worker("sink", *map(str, sinks)), sinks[-1]),
    }
    # Asked at the start only: a probe would take iperf3's one place for a client.
    containers = [
        {
            **_container(place, program, command),
            "startupProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": 60},
        }
        for program, (command, port) in programs.items()
    ]
    return _pod(place, name, {INJECT: "false"}, {}, containers, initContainers=[_settings(place)])


def client(place: Place, name: str, variant: Variant, part: Client, server_address: str) -> Document:
    """What sends. The names of all lanes lead to the server."""
    return _pod(
        place,
        name,
        _labels(variant),
        part.annotations,
        [_container(place, APP, _WAIT)],
        initContainers=[_settings(place)],
        hostAliases=[{"ip": server_address, "hostnames": [lane.host for lane in LANES]}],
    )


def started(place: Place, name: str, variant: Variant) -> Document:
    """A Pod whose start is timed: one container that is ready as soon as it runs."""
    (part,) = variant.clients
    container = {"name": APP, "image": place.image, "command": _WAIT}
    return _pod(place, name, _labels(variant), part.annotations, [container])


def unscheduled(place: Place, name: str, variant: Variant) -> Document:
    """The same Pod for a node that does not exist: it is admitted and stored, and no kubelet hears of it."""
    made = started(place, name, variant)
    made["spec"]["nodeSelector"] = _NOWHERE
    return made


def _labels(variant: Variant) -> dict[str, str]:
    """By which a Pod is Podlane's, or is not: the Pod's namespace has not opted in."""
    return {MODE: "agent"} if variant.agent else {INJECT: str(variant.injected).lower()}


def _container(place: Place, name: str, command: Sequence[str]) -> Document:
    return {
        "name": name,
        "image": place.image,
        "command": list(command),
        "volumeMounts": [{"name": _CONFIGURATION, "mountPath": _FOLDER}],
    }


def _settings(place: Place) -> Document:
    rights = {"privileged": True, "runAsUser": 0}
    return {"name": "settings", "image": place.image, "command": ["sh", "-c", _SETTINGS], "securityContext": rights}


def _pod(
    place: Place,
    name: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    containers: list[Document],
    **spec: Any,
) -> Document:
    mounted = any("volumeMounts" in container for container in containers)
    volumes = [{"name": _CONFIGURATION, "configMap": {"name": _CONFIGURATION}}] if mounted else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels), "annotations": dict(annotations)},
        "spec": {
            "containers": containers,
            "volumes": volumes,
            # By label and not by nodeName: what the scheduler does is part of a Pod's start.
            "nodeSelector": {HOSTNAME: place.hostname},
            "terminationGracePeriodSeconds": _GRACE,
            "enableServiceLinks": False,
            **spec,
        },
    }
