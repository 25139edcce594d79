"""Workloads named in a file, for a host without Kubernetes::

workloads:
  - name: web              # unique; in metrics, logs and `podlane top`
    netns: web             # below /run/netns, or a path; left out: the agent's own
    interface: eth0        # left out: that of the default route
    policy: web.yaml       # next to this file; or the policy itself
    on-failure: closed     # new connections that names decide wait while there is no agent; left out: open
    mesh: istio            # the service mesh whose proxy is there: istio, linkerd or auto; left out: none
    datapath: ebpf         # or step-aside; left out: as `podlane agent --datapath` says
    labels: {tier: front}  # by which a control plane selects it; with one, policy may be left out
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from daemon.file_watch import follow
from daemon.log import Logger
from node_agent.errors import WorkloadsError
from node_agent.workload import EntryClaim, NodeWorkload, lanes_of_policy
from traffic_policy.errors import PodlaneError, PolicyError
from traffic_policy.policy import TrafficPolicy
from traffic_policy.policy_file import load_policy, parse_document, policy_from_document
from traffic_policy.settings import Datapath, Mesh, OnFailure

_OWN: Final = Path("/proc/self/ns/net")
_NAMES: Final = Path("/run/netns")
_KEYS: Final = ("name", "netns", "interface", "policy", "on-failure", "mesh", "datapath", "labels")
_DATAPATHS: Final = (Datapath.EBPF, Datapath.STEP_ASIDE)
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_INTERFACE: Final = re.compile(r"[^\s/:]{1,15}")
"""dev_valid_name() of net/core/dev.c."""

Put = Callable[[Mapping[str, NodeWorkload]], Awaitable[None]]

log = Logger()


@dataclass(frozen=True, slots=True)
class Entries:
    """What a file says: workloads by name, and the policy files that it names."""

    workloads: dict[str, NodeWorkload]
    files: tuple[Path, ...]


def read_workloads(path: Path, *, fleet: bool = False) -> Entries:
    """Read the file and the policies that it names. ``fleet``: a control plane has policies for entries without one.

    A policy that cannot be used is the refusal of its workload. Raises :class:`WorkloadsError` for the file itself.
    """
    try:
        document = parse_document(path.read_text("utf-8"), source=str(path))
    except OSError as error:
        raise WorkloadsError(f"{path} cannot be read: {error.strerror}. Name another by --workloads.") from None
    except UnicodeDecodeError:
        raise WorkloadsError(f"{path} is not UTF-8 text. Save it as UTF-8.") from None
    except PolicyError as error:
        raise WorkloadsError(str(error)) from None
    entries = document.get("workloads") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(entries, list) or document.keys() != {"workloads"}:
        raise WorkloadsError(f"{path}: Write one key, workloads, with a list of entries.")
    found: dict[str, NodeWorkload] = {}
    policies: dict[Path, TrafficPolicy | PodlaneError] = {}
    places: dict[Path, str] = {}
    for i, entry in enumerate(entries):
        where = f"{path}: workloads[{i}]"
        workload = _workload(entry, where, path.parent, policies, fleet=fleet)
        if workload.name in found:
            raise WorkloadsError(f"{where}.name: {workload.name} is there twice. Give each a name of its own.")
        place = workload.network_namespace
        assert place is not None
        if place in places:
            raise WorkloadsError(
                f"{where}.netns: {places[place]} is in {place}, too. A network namespace has one policy: merge them."
            )
        found[workload.name] = workload
        places[place] = workload.name
    return Entries(found, tuple(policies))


def _workload(
    entry: object, where: str, folder: Path, policies: dict[Path, TrafficPolicy | PodlaneError], *, fleet: bool
) -> NodeWorkload:
    if not isinstance(entry, dict):
        raise WorkloadsError(f"{where}: {entry!r} is not a mapping. Write {', '.join(_KEYS)}.")
    for key in entry:
        if key not in _KEYS:
            raise WorkloadsError(f"{where}: There is no key {key!r}. There are {', '.join(_KEYS)}.")
    name = _text(entry, "name", where)
    if name is None or not _NAME.fullmatch(name):
        raise WorkloadsError(f"{where}.name: Write a name of letters, digits and ._/- for it, as in web.")
    netns = _text(entry, "netns", where)
    interface = _text(entry, "interface", where)
    if interface is not None and not _INTERFACE.fullmatch(interface):
        raise WorkloadsError(f"{where}.interface: {interface!r} is not an interface's name. See `ip link`.")
    on_failure = _text(entry, "on-failure", where) or OnFailure.OPEN
    if on_failure not in list(OnFailure):
        raise WorkloadsError(f"{where}.on-failure: {on_failure} is neither open nor closed. Write one of these.")
    mesh = _text(entry, "mesh", where) or Mesh.NONE
    if mesh not in list(Mesh):
        raise WorkloadsError(f"{where}.mesh: {mesh!r} is none of {', '.join(Mesh)}.")
    datapath = _text(entry, "datapath", where)
    if datapath is not None and datapath not in _DATAPATHS:
        raise WorkloadsError(f"{where}.datapath: {datapath!r} is neither ebpf nor step-aside. Write one of these.")
    chosen = None if datapath is None else Datapath(datapath)
    labels = _labels(entry.get("labels", {}), where)
    if "policy" not in entry and not fleet:
        raise WorkloadsError(
            f"{where}.policy: It is missing. Name a policy file, or write the policy here, or give the agent a "
            "--control-plane that has one."
        )
    workload = partial(
        NodeWorkload, name, _OWN if netns is None else _NAMES / netns, labels={"namespace": "", "pod": name}
    )
    if "policy" not in entry:
        return workload(None, claim=EntryClaim(labels, interface, OnFailure(on_failure), Mesh(mesh), chosen))
    named = entry["policy"] if isinstance(entry["policy"], str) else ""
    try:
        policy = _policy(entry["policy"], where, folder, policies)
        lanes = lanes_of_policy(policy, interface, OnFailure(on_failure), mesh=Mesh(mesh), datapath=chosen)
        return workload(lanes, policy_file=named)
    except PodlaneError as error:
        return workload(None, str(error))


def _text(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise WorkloadsError(f"{where}.{key}: {value!r} is not a text. Put it in quotes.")
    return value


def _labels(written: object, where: str) -> dict[str, str]:
    if not isinstance(written, dict) or not all(isinstance(each, str) for pair in written.items() for each in pair):
        raise WorkloadsError(f"{where}.labels: {written!r} is not a mapping of texts. Write it as in {{tier: front}}.")
    return written


def _policy(
    written: object, where: str, folder: Path, policies: dict[Path, TrafficPolicy | PodlaneError]
) -> TrafficPolicy:
    """``policies`` are those of files, each of which is read once: hundreds of workloads may name the same."""
    if not isinstance(written, str):
        return policy_from_document(written, source=f"{where}.policy")
    path = folder / written
    if path not in policies:
        try:
            policies[path] = load_policy(path)
        except PodlaneError as error:
            policies[path] = error
    known = policies[path]
    if isinstance(known, PodlaneError):
        raise known
    return known


async def follow_workloads(path: Path, put: Put, *, fleet: bool = False) -> None:
    """Put the workloads of a file, and again after each change of it or of a policy that it names, until cancelled.

    ``fleet`` as for :func:`read_workloads`.

    Raises :class:`WorkloadsError` if it cannot be used at first; later the workloads stay as they are.
    """
    read = partial(read_workloads, path, fleet=fleet)
    entries = await trio.to_thread.run_sync(read)
    await put(entries.workloads)
    changed = trio.Event()

    def note() -> None:
        changed.set()

    def paths() -> tuple[Path, ...]:
        return (path, *entries.files)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, paths, note)
        while True:
            await changed.wait()
            changed = trio.Event()
            try:
                entries = await trio.to_thread.run_sync(read)
            except WorkloadsError as error:
                log.error("the workloads stay as they are", error=str(error))
            else:
                await put(entries.workloads)
