"""Reads manifests and writes them back, for the verbs that change them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from podlane.console import MISUSED, say, stop
from podlane.errors import ManifestFileError

if TYPE_CHECKING:
    from injector.manifests.edit import ManifestResult

_STANDARD_INPUT: Final = "-"
_OPTIONS: Final[tuple[Any, ...]] = (
    click.option("-f", "--filename", "source", required=True, metavar="FILE", help="A manifest; - for standard input."),
    click.option("--in-place", is_flag=True, help="Write the result to FILE, not to standard output."),
    click.option("--quiet", is_flag=True, help="Say warnings only, not what was done."),
)


def file_options(command: Any) -> Any:
    """``-f FILE``, ``--in-place`` and ``--quiet``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_manifest(source: str, *, in_place: bool) -> str:
    """The text of a file, or of standard input. Raises :class:`ManifestFileError`."""
    if source != _STANDARD_INPUT:
        return read_text(Path(source))
    if in_place:
        raise click.UsageError("Standard input cannot be rewritten. Leave out --in-place, or name a file by -f.")
    return _decoded(sys.stdin.buffer.read(), "standard input")


def read_text(path: Path) -> str:
    """The text of a file with its original line breaks. Raises :class:`ManifestFileError`."""
    try:
        return _decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise ManifestFileError(f"{path} cannot be read: {error.strerror or error}. Name another file.") from None


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ManifestFileError(f"{source} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None


def finish(source: str, text: str, work: Callable[[], ManifestResult], *, in_place: bool, quiet: bool) -> None:
    """Do the work and write its result; on errors exit with all reasons, and write nothing."""
    from injector.errors import ManifestError

    name = "standard input" if source == _STANDARD_INPUT else source
    try:
        result = work()
    except ManifestError as error:
        stop("\n".join(f"{name}: {line}" for line in str(error).splitlines()), MISUSED)
    for outcome in result.outcomes:
        if not quiet:
            say(f"{name}: {outcome.place}: {outcome.action}")
        for warning in outcome.warnings:
            say(f"{name}: {outcome.place}: {warning}")
    if not result.outcomes and not quiet:
        say(f"{name}: There is no Pod in it, and no template for one.")
    if not in_place:
        click.echo(result.text.encode(), nl=False)
    elif result.text != text:
        _write(Path(source), result.text.encode())


def _write(path: Path, data: bytes) -> None:
    """Replace a file atomically, with the same mode; a symbolic link stays one."""
    target = Path(os.path.realpath(path))
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            shutil.copymode(target, name)
            os.replace(name, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise ManifestFileError(
            f"{path} cannot be written: {error.strerror or error}. It is as it was. Leave out --in-place."
        ) from None
