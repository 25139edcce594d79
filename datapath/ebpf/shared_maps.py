"""The maps that the programs of all interfaces of a process share, so that one more interface takes little memory.

The first programs that are loaded make them, or they are those of an earlier process. They stay until this process has
ended, and for as long as programs have them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from datapath.ebpf.libbpf import BpfObject, map_id
from datapath.ebpf.policy_maps import PolicyMaps
from datapath.ebpf.program import BEGINNINGS, SHARED, SOURCES, VERDICTS, load

_OF_ONE: Final = {BEGINNINGS: 512 << 10, VERDICTS: 8192, SOURCES: 1024}
_OF_MANY: Final = {BEGINNINGS: 2 << 20, VERDICTS: 16384, SOURCES: 8192}
"""Bytes of the ring, entries of the others; one interface may have 256 KiB of the ring (``programs/beginnings.h``)."""


class LaneMaps(NamedTuple):
    """What the programs of one interface have: its number in the records of the ring, and descriptors by name."""

    number: int
    fds: Mapping[str, int]


class SharedMaps:
    """The maps of :data:`~datapath.ebpf.program.SHARED`. Any thread may call."""

    def __init__(self, *, many: bool = False) -> None:
        """``many``: sized for the interfaces of a node, not for one."""
        self.sizes: Mapping[str, int] = _OF_MANY if many else _OF_ONE
        self.fds: Mapping[str, int] = {}
        """Descriptors by name, which stay; empty until there are programs."""
        self._making = threading.Lock()

    def load(
        self, maps: PolicyMaps, own: Mapping[str, int], sizes: Mapping[str, int], names: Collection[str]
    ) -> BpfObject:
        """Load programs of these ``names`` with these maps. ``own`` are maps to go on with; shared ones among them
        only if there are none here yet. ``sizes`` are those of maps that no policy fills. Raises what
        :func:`~datapath.ebpf.program.load` raises.
        """
        if not self.fds:
            with self._making:
                if not self.fds:
                    loaded = load(maps, own, sizes={**self.sizes, **sizes}, names=names)
                    self.fds = {name: os.dup(loaded.map(name).fd) for name in SHARED}
                    return loaded
        return load(maps, {**own, **self.fds}, sizes={**self.sizes, **sizes}, names=names)

    def offer(self, found: Mapping[str, int]) -> dict[str, int]:
        """Use the shared ones among the maps of an earlier process's programs, if there are none here yet.

        Returns the descriptors that stay the caller's: of maps that are not used here. Raises
        :class:`~datapath.ebpf.libbpf.BpfError`.
        """
        with self._making:
            if not self.fds and found.keys() >= set(SHARED):
                self.fds = {name: found[name] for name in SHARED}
                return {name: fd for name, fd in found.items() if name not in SHARED}
        rest = {}
        for name, fd in found.items():
            if name in self.fds and map_id(fd) == map_id(self.fds[name]):
                os.close(fd)
            else:
                rest[name] = fd
        return rest
