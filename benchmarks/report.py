"""Writes a run's files, and puts its tables into docs/benchmarks.md between two markers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from benchmarks.analysis import Analysis
from benchmarks.errors import BenchmarkError
from benchmarks.results import Results
from benchmarks.tables import document

JSON, MARKDOWN = "results.json", "results.md"
BEGIN: Final = "<!-- results: begin (python -m benchmarks --publish) -->"
END: Final = "<!-- results: end -->"
DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"
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
    if not results.complete:
        raise BenchmarkError("That run was interrupted. Publish a complete one.")
    changed = []
    images = []
    (target.parent / IMAGES).mkdir(exist_ok=True)
    for plot in sorted(folder.glob("*.svg")):
        copy = target.parent / IMAGES / f"benchmark-{plot.name}"
        shutil.copyfile(plot, copy)
        images.append(f"{IMAGES}/{copy.name}")
        changed.append(copy)
    target.write_text(published(target.read_text(), document(Analysis(results)), images))
    return [*changed, target]
