"""Writes a run's files, and puts its tables into docs/explanation/benchmarks.md between two markers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.analysis import Analysis
from benchmarks.errors import BenchmarkError
from benchmarks.results import Results
from benchmarks.tables import document

JSON, MARKDOWN = "results.json", "results.md"
BEGIN: Final = "<!-- results: begin (python -m benchmarks --publish) -->"
END: Final = "<!-- results: end -->"
DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "explanation" / "benchmarks.md"
IMAGES: Final = "images"


def write(results: Results, folder: Path) -> list[Path]:
    """JSON, Markdown and, where matplotlib is installed, plots; gives the files. Raises OSError."""
    analysis = Analysis(results)
    results.write(folder / JSON)
    (folder / MARKDOWN).write_text(document(analysis))
    made = [folder / JSON, folder / MARKDOWN]
    try:
        from benchmarks import plots
    except ImportError:
        return made
    return [*made, *plots.draw(analysis, folder)]


def published(text: str, tables: str, images: list[str], begin: str = BEGIN, end: str = END) -> str:
    """A document with what stands between its markers replaced. Raises :class:`BenchmarkError` without markers."""
    head, found, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found or not found_end:
        raise BenchmarkError(f"The document has no lines {begin!r} and {end!r}. Put them where the results go.")
    pictures = "".join(f"![{Path(image).stem.replace('benchmark-', '')}]({image})\n\n" for image in images)
    return f"{head}{begin}\n\n{pictures}{tables}\n{end}{tail}"


def publish(results: Results, folder: Path, target: Path = DOCUMENT) -> list[Path]:
    """Put a run's tables into the document and its plots beside it; gives the changed files."""
    plots = sorted(folder.glob("*.svg"))
    return put(results, document(Analysis(results)), plots, target, BEGIN, END)


def put(results: Results, tables: str, plots: Iterable[Path], target: Path, begin: str, end: str) -> list[Path]:
    """Put these between the document's markers, and copies of the plots beside it; gives the changed files.

    Raises :class:`BenchmarkError` for a run that was interrupted, and where there are no markers.
    """
    if not results.complete:
        raise BenchmarkError("That run was interrupted. Publish a complete one.")
    (target.parent / IMAGES).mkdir(exist_ok=True)
    copies = []
    for plot in plots:
        copies.append(target.parent / IMAGES / f"benchmark-{plot.name}")
        shutil.copyfile(plot, copies[-1])
    images = [f"{IMAGES}/{copy.name}" for copy in copies]
    target.write_text(published(target.read_text(), tables, images, begin, end))
    return [target, *copies]
