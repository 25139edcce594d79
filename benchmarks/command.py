"""What the benchmark's commands share: lists of names, where results go, two CPUs, a tidy end after a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from benchmarks.errors import BenchmarkError
from benchmarks.stage import Placement

FOLDER: Final = Path(__file__).parent / "results"


def names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Read ``a,b``; a callback of click's."""
    return tuple(name.strip() for name in (value or "").split(",") if name.strip())


def output_option(command: Any) -> Any:
    """``--output``, for a command whose results are in the folder of its name."""
    name = command.__name__
    return click.option(
        "--output",
        metavar="DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help=f"Where results are written.  [default: benchmarks/results/{name}, with --quick its folder quick]",
    )(command)


def make_folder(output: Path) -> None:
    """Make the folder of results. Raises :class:`BenchmarkError`."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"{output} cannot be made: {error.strerror}. Name another folder by --output.") from None


def placement() -> Placement:
    """Two of the CPUs that this process may use. Raises :class:`BenchmarkError` where there is one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise BenchmarkError("This needs two CPUs: one for what is measured, one for everybody else.")
    return Placement(cpus[0], cpus[1])


def halves() -> tuple[str, str]:
    """CPUs for what is measured, and for others, as ``taskset -c`` has them: two each where there are four; where there
    is one, all share it."""
    found = sorted(os.sched_getaffinity(0))
    half = min(2, len(found) // 2)
    ours, theirs = (found[:half], found[half : 2 * half]) if half else (found, found)
    return ",".join(map(str, ours)), ",".join(map(str, theirs))


def end_tidily() -> None:
    """Let SIGINT and SIGTERM end the run as Ctrl-C does: with what there is written, and everything ended."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """The first asks for the end; a second one must not keep it from being tidy."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def undisturbed() -> Iterator[None]:
    """For what tidies up: a signal that asks for the end is let pass, since that is what is going on.

    Programs that are started in the block ignore such signals, too.
    """
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def tell(files: list[Path]) -> None:
    """Say which files were written."""
    for path in files:
        click.echo(path)
