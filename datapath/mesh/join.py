"""Finds the mesh in this network namespace and assumes the identity that it exempts."""

from __future__ import annotations

import os

from daemon.log import Logger
from datapath.errors import RulesetError
from datapath.mesh.detect import DetectedMesh, detect_mesh
from datapath.mesh.detect_nft import detect_native_mesh
from datapath.mesh.nftables import inet_rules
from datapath.mesh.owner import check_may_be
from datapath.mesh.types import USUAL, MeshProxy
from datapath.netfilter.restore import INSTALL_REMEDY, installed_programs
from datapath.netfilter.rules import Family
from traffic_policy.errors import ConfigError, PodlaneError
from traffic_policy.settings import Datapath, Mesh

log = Logger()


def find_mesh() -> DetectedMesh | None:
    """The mesh whose rules are installed. Reads the tables of all implementations, since it may use another than we.

    IPv4 suffices, since every mesh uses it. Raises :class:`RulesetError` when iptables rules cannot be read.
    """
    problems: list[str] = []
    programs = installed_programs()
    for backend in programs.values():
        try:
            found = detect_mesh(backend.read_all(Family.V4))
        except PodlaneError as error:
            log.debug("no mesh can be looked for", backend=str(backend), error=str(error))
            problems.append(str(error))
            continue
        if found is not None:
            return found
    try:
        found = detect_native_mesh(inet_rules())
    except PodlaneError as error:  # a kernel without nftables, which has no such rules
        log.debug("no mesh can be looked for", backend="nftables", error=str(error))
        found = None
    if found is None and len(problems) == len(programs):
        raise RulesetError(" ".join(problems) or f"There is no iptables-save. {INSTALL_REMEDY}")
    return found


def resolve(asked: Mesh) -> MeshProxy | None:
    """The mesh's proxy in this Pod, by the setting ``asked`` and the installed rules.

    The setting holds even if the mesh's rules are installed later; the rules provide ids that are not the usual ones.
    Raises :class:`ConfigError` when the rules are those of another mesh than the setting names.
    """
    if asked is Mesh.NONE:
        return None
    try:
        found = find_mesh()
    except RulesetError as error:
        found = None
        if asked is Mesh.AUTO:
            log.warning(
                "whether a mesh is here cannot be seen, so none is assumed; if there is one, connections go past it",
                error=str(error),
                remedy="name it: --mesh istio or linkerd; --mesh none takes back this warning",
            )
    if found is None:
        usual = USUAL.get(asked)
        if usual is not None:
            log.info("with a service mesh", mesh=usual.title, its=usual.sign, rules="not here yet, or not to be seen")
        return usual
    if asked is not Mesh.AUTO and found.mesh is not asked:
        raise ConfigError(
            f"--mesh {asked}: The rules in this network namespace are those of {found.title}. "
            "Name the mesh that is here, or auto."
        )
    if found.proxy is None:
        log.warning(
            "a mesh that is known by its name only redirects connections here",
            mesh=found.title,
            remedy="docs/how-to/mesh.md says what works with it; --mesh none takes back this warning",
        )
        return None
    log.info(
        "with a service mesh", mesh=found.title, its=found.proxy.sign, inbound=found.inbound, ports=list(found.ports)
    )
    return found.proxy


def join(asked: Mesh, datapath: Datapath) -> MeshProxy | None:
    """:func:`resolve` the setting ``asked``, and :func:`_assume` the identity that the relay needs.

    Raises :class:`ConfigError`, :class:`PrivilegeError`.
    """
    proxy = resolve(asked)
    if proxy is not None and datapath is Datapath.RELAY:
        _assume(proxy)
    return proxy


def _assume(proxy: MeshProxy) -> None:
    """Set this process's gid to that of the mesh's proxy, so that the mesh exempts our packets.

    A uid or a mark is set on each socket instead. Raises :class:`ConfigError` or :class:`PrivilegeError` when that is
    not allowed.
    """
    if proxy.user is not None:
        check_may_be(proxy.user)
    if proxy.group is None or os.getegid() == proxy.group:
        return
    try:
        os.setegid(proxy.group)
    except PermissionError:
        raise ConfigError(
            f"Beside {proxy.title} this process must have gid {proxy.group}, but has {os.getegid()}, and what it sends "
            f"would be redirected to {proxy.title}'s proxy again. Set runAsGroup: {proxy.group} in the container's "
            "securityContext, or give it CAP_SETGID."
        ) from None
