"""Puts ``podlane-cni`` where a node's container runtime finds it, and back when another program writes without it.

CNI plugins write their network configuration at their start, and some of them now and then. So does who chains another
plugin. Each file is replaced in one step, with its owner and mode: it may have a secret in it.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from daemon.file_watch import follow
from daemon.log import Logger
from node_agent.cni.conflist import PLUGIN, ConflistError, PluginEntry, network_files, with_plugin
from traffic_policy.errors import ConfigError

_AGAIN_S: Final = 1.0
"""Seconds between two times that it is put back: who takes it away again and again does not get all of a processor."""
_RETRY_S: Final = 30.0

log = Logger()


@dataclass(frozen=True, slots=True)
class PluginInstaller:
    """``conf`` and ``programs`` are the folders of a node's network configurations, and of its CNI plugins."""

    conf: Path
    programs: Path

    def install_program(self, program: Path | None = None) -> None:
        """Copy the plugin, by default the one that came with this interpreter's environment, if it is not there yet.

        Raises :class:`ConfigError`.
        """
        program = program or Path(sys.executable).with_name(PLUGIN)
        try:
            content = program.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{program} cannot be read: {error.strerror}. Podlane's image has it; elsewhere compile "
                "node_agent/cni/podlane-cni.c, whose first lines say how."
            ) from None
        there = self.programs / PLUGIN
        with suppress(OSError):
            if there.read_bytes() == content and os.access(there, os.X_OK):
                return
        try:
            _replace(there, content, 0o755)
        except OSError as error:
            raise ConfigError(f"{there} cannot be written: {error.strerror}. Name another by --cni-bin-dir.") from None
        log.info("the CNI plugin is copied", to=str(there))

    def put(self, entry: PluginEntry) -> Path | None:
        """Have this entry in the network configuration in use; the file, if it has changed.

        Raises :class:`ConflistError`.
        """
        files = self._files()
        if not files:
            raise ConflistError(f"There is no network configuration in {self.conf} yet.")
        return files[0] if _change(files[0], entry) else None

    def remove(self) -> list[Path]:
        """Have no entry in any network configuration; which ones had. The program stays, since runtimes may still call
        it for Pods that began with it (DEL).

        Raises :class:`ConflistError`.
        """
        return [path for path in self._files() if _change(path, None)]

    def _files(self) -> list[Path]:
        try:
            return [self.conf / name for name in network_files(os.listdir(self.conf))]
        except OSError:
            return []

    async def keep(self, entry: PluginEntry) -> None:
        """Have this entry in the network configuration until cancelled, when it stays."""
        stirred = trio.Event()
        told = ""

        def stir() -> None:
            stirred.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, self._files, stir)
            while True:
                with trio.move_on_after(_RETRY_S):
                    await stirred.wait()
                stirred = trio.Event()
                problem = ""
                try:
                    written = await trio.to_thread.run_sync(self.put, entry)
                except ConflistError as error:
                    problem = str(error)
                else:
                    if written is not None:
                        log.info("the CNI plugin is put into the node's network configuration", file=str(written))
                        await trio.sleep(_AGAIN_S)
                if problem and problem != told:
                    log.warning("the CNI plugin is not in force: Pods begin without their lanes", reason=problem)
                told = problem


def _change(path: Path, entry: PluginEntry | None) -> bool:
    """Whether the entry was to be changed. Raises :class:`ConflistError`."""
    try:
        text = path.read_text()
        if entry is None and PLUGIN not in text:
            return False
        fresh = with_plugin(text, entry)
        if fresh is not None:
            _replace(path, fresh.encode())
    except (OSError, ConflistError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConflistError(f"{path}: {said}") from None
    except UnicodeDecodeError:
        raise ConflistError(f"{path}: It is not UTF-8 text.") from None
    return fresh is not None


def _replace(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file in one step. Without ``mode`` its mode and owner stay. Raises OSError."""
    part = path.with_name(f".{path.name}.part")  # a suffix that container runtimes do not read
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            if mode is None:
                shutil.copymode(path, part)
                status = path.stat()
                os.fchown(descriptor, status.st_uid, status.st_gid)
            else:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
