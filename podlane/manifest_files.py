"""Reads manifests and writes them back, for the verbs that change them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from podlane.console import MISUSED, say, stop
from podlane.errors import ManifestFileError

if TYPE_CHECKING:
    from injector.manifests.edit import ManifestResult

_STANDARD_INPUT: Final = "-"
_BOM: Final = "\ufeff"
_SUFFIXES: Final = (".json", ".yaml", ".yml")
"""Of the files that are read of a directory, as kubectl does."""
_OPTIONS: Final[tuple[Any, ...]] = (
    click.option(
        "-f",
        "--filename",
        "sources",
        required=True,
        multiple=True,
        metavar="FILE",
        help="A manifest, a directory of .yaml, .yml and .json files, or - for standard input; may be repeated.",
    ),
    click.option("--in-place", is_flag=True, help="Write the result to the files, not to standard output."),
    click.option("--quiet", is_flag=True, help="Say warnings only, not what was done."),
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One file, or standard input: ``name`` as it is told."""

    name: str
    text: str
    path: Path | None


def file_options(command: Any) -> Any:
    """``-f FILE``, ``--in-place`` and ``--quiet``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_manifests(sources: Sequence[str], *, in_place: bool) -> list[Manifest]:
    """All manifests that are named, in their order. Raises :class:`ManifestFileError`."""
    found: list[Manifest] = []
    for source in dict.fromkeys(sources):
        if source != _STANDARD_INPUT:
            found += (Manifest(str(path), read_text(path), path) for path in _files(Path(source)))
        elif in_place:
            raise click.UsageError("Standard input is no file to write to. Leave out --in-place, or name a file.")
        else:
            found.append(Manifest("standard input", _decoded(sys.stdin.buffer.read(), "standard input"), None))
    return found


def _files(path: Path) -> list[Path]:
    """The file itself, or the manifests in a directory; those of its directories are not read."""
    if not path.is_dir():
        return [path]
    try:
        found = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES and each.is_file())
    except OSError as error:
        raise ManifestFileError(f"{path} cannot be read: {error.strerror or error}. Name another file.") from None
    if not found:
        raise ManifestFileError(f"The directory {path} has no file named *.yaml, *.yml or *.json. Name files by -f.")
    return found


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


def finish(
    manifests: Sequence[Manifest], work: Callable[[Manifest], ManifestResult], *, in_place: bool, quiet: bool
) -> None:
    """Do the work and write its results; on errors exit with all reasons, and write nothing."""
    from injector.errors import ManifestError

    done: list[tuple[Manifest, ManifestResult]] = []
    problems: list[str] = []
    for manifest in manifests:
        try:
            done.append((manifest, work(manifest)))
        except ManifestError as error:
            problems += (f"{manifest.name}: {line}" for line in str(error).splitlines())
    if problems:
        stop("\n".join(problems), MISUSED)
    for manifest, result in done:
        for outcome in result.outcomes:
            if not quiet:
                say(f"{manifest.name}: {outcome.place}: {outcome.action}")
            for warning in outcome.warnings:
                say(f"{manifest.name}: {outcome.place}: {warning}")
        if not result.outcomes and not quiet:
            say(f"{manifest.name}: There is no Pod in it, and no template for one.")
    if not in_place:
        click.echo(_stream([result.text for _, result in done]).encode(), nl=False)
        return
    for manifest, result in done:
        if result.text != manifest.text and manifest.path is not None:
            _write(manifest.path, result.text.encode())


def _stream(texts: Sequence[str]) -> str:
    """Several manifests as one; a single one stays as it is."""
    if len(texts) == 1:
        return texts[0]
    parts = [text if text.endswith("\n") else f"{text}\n" for text in (text.removeprefix(_BOM) for text in texts)]
    return "".join(part if i == 0 or part.startswith("---") else f"---\n{part}" for i, part in enumerate(parts))


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
