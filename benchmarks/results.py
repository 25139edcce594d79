"""What a run has measured, as data, and as the JSON document that keeps it. Pure but for the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.errors import BenchmarkError

SCHEMA: Final = 1
"""Raised when a reader of old documents would misunderstand new ones."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. ``failure``: why there are no values; ``round`` counts from 1."""

    round: int
    candidate: str
    metric: str
    values: Mapping[str, float]
    errors: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class CandidateInfo:
    """A candidate as it was found. ``missing``: why it was not run."""

    title: str
    version: str
    missing: str | None = None


@dataclass(slots=True)
class Results:
    """A whole run. ``complete`` is False while it goes on, and stays so when it was interrupted."""

    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    candidates: dict[str, CandidateInfo] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    not_applicable: dict[str, list[str]] = field(default_factory=dict)
    """Metric name -> candidates that cannot do it by their nature."""
    complete: bool = False

    def to_json(self) -> str:
        """The document, with all samples."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "results") -> Self:
        """Read a document back. Raises :class:`BenchmarkError` when it is not one of ours."""
        try:
            document = json.loads(text)
            if document["schema"] != SCHEMA:
                raise BenchmarkError(f"{source}: schema {document['schema']}, but this reads {SCHEMA}. Run it again.")
            return cls(
                document["machine"],
                document["settings"],
                {name: CandidateInfo(**info) for name, info in document["candidates"].items()},
                [Sample(**sample) for sample in document["samples"]],
                document["not_applicable"],
                document["complete"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(f"{source} is no result of this benchmark ({error!r}).") from None

    def write(self, path: Path) -> None:
        """Replace ``path`` at once: an interrupted run leaves the last whole document."""
        partial = path.with_suffix(".partial")
        partial.write_text(self.to_json())
        partial.replace(path)


def load(path: Path, command: str = "python -m benchmarks") -> Results:
    """The results in a file, as ``command`` makes it. Raises :class:`BenchmarkError` when it cannot be read."""
    try:
        return Results.from_json(path.read_text(), str(path))
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}. Run `{command}` first.") from None
