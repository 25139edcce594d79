"""The plugin from the agent's start to the end of its DaemonSet.

It stays in the node's network configuration when an agent ends, as lanes stay: another one follows, and a Pod that
begins meanwhile has to be let through, or to wait. Only when the DaemonSet goes, or wants no plugin any more, is it
taken out: with ``closed`` no Pod would begin on that node again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from daemon.kubernetes.api import ApiServer, daemon_set
from daemon.kubernetes.errors import ApiError
from daemon.log import Logger
from node_agent.cni.conflist import ConflistError, PluginEntry
from node_agent.cni.gate import CniGate
from node_agent.cni.installer import PluginInstaller
from node_agent.cni.server import listen, serve_cni
from node_agent.settings import ENVIRONMENT, AgentSettings
from traffic_policy.errors import ConfigError

_VARIABLE: Final = f"{ENVIRONMENT}CNI_CONF_DIR"
_GONE: Final = (401, 403, 404)
"""Rights go together with the DaemonSet, often before its Pods have ended."""

log = Logger()


async def run_plugin(settings: AgentSettings, conf: Path, gate: CniGate) -> None:
    """Answer the plugin, and keep it installed, until cancelled. Raises :class:`ConfigError`."""
    socket = settings.cni_socket
    installer = PluginInstaller(conf, settings.cni_bin_dir)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_cni, listen(socket), gate.answer)
        await trio.to_thread.run_sync(installer.install_program)
        entry = PluginEntry(socket.absolute(), settings.cni_on_failure, settings.exempt_namespaces)
        nursery.start_soon(installer.keep, entry)


async def take_plugin_out_if_unwanted(settings: AgentSettings, api: ApiServer) -> None:
    """At the agent's end. A failure is logged."""
    if settings.cni_conf_dir is None or not settings.daemon_set or not await _unwanted(settings.daemon_set, api):
        return
    try:
        await trio.to_thread.run_sync(partial(take_plugin_out, settings))
    except ConfigError as error:
        log.error("the CNI plugin stays in the node's network configuration", error=str(error))
    settings.cni_socket.unlink(missing_ok=True)  # nobody will answer there


def take_plugin_out(settings: AgentSettings) -> list[Path]:
    """Out of the node's network configuration; which files had it. Blocks. Raises :class:`ConfigError`."""
    if settings.cni_conf_dir is None:
        return []
    try:
        changed = PluginInstaller(settings.cni_conf_dir, settings.cni_bin_dir).remove()
    except ConflistError as error:
        raise ConfigError(f"{error} Take podlane-cni out of it.") from None
    for path in changed:
        log.info("the CNI plugin is taken out of the node's network configuration", file=str(path))
    return changed


async def _unwanted(name: str, api: ApiServer) -> bool:
    namespace, _, own = name.partition("/")
    try:
        return not wants_plugin(await api.get(daemon_set(namespace, own)))
    except ApiError as error:
        return error.status in _GONE


def wants_plugin(document: Mapping[str, Any]) -> bool:
    """Whether a DaemonSet stays, and its next Pods will have the plugin."""
    try:
        containers = document["spec"]["template"]["spec"]["containers"]
        named = {variable["name"] for each in containers for variable in each.get("env") or ()}
        return _VARIABLE in named and "deletionTimestamp" not in document["metadata"]
    except (KeyError, TypeError, AttributeError):
        return True  # it is not understood: nothing is changed
