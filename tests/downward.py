"""What the kubelet does for volumes of annotations and of ConfigMaps: the text, and how a file is exchanged."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path

_SHORT = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"',
}  # fmt: skip


def go_quote(text: str) -> str:
    """``strconv.Quote`` of Go (strconv/quote.go), with this Python's idea of what can be printed."""
    return f'"{"".join(map(_quoted, text))}"'


def _quoted(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if character == " " or unicodedata.category(character)[0] in "LMNPS":
        return character
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def format_map(annotations: Mapping[str, str]) -> str:
    """``FormatMap`` of k8s.io/kubernetes, pkg/fieldpath/fieldpath.go."""
    return "\n".join(f"{key}={go_quote(annotations[key])}" for key in sorted(annotations))


class AtomicFolder:
    """A folder whose files change all at once, as k8s.io/kubernetes does it (pkg/volume/util/atomic_writer.go).

    Files are named by their path in it, with the text for each.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()
        self.write_all(files)

    def write_all(self, files: Mapping[str, str]) -> None:
        """Put new files in the place of all that there are."""
        self._versions += 1
        version = self.folder / f"..version_{self._versions}"
        version.mkdir()
        for path, text in files.items():
            (version / path).parent.mkdir(parents=True, exist_ok=True)
            (version / path).write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, self.folder / "..data")
        wanted = {Path(path).parts[0] for path in files}
        shown = {path.name for path in self.folder.iterdir() if not path.name.startswith("..")}
        for name in wanted - shown:
            (self.folder / name).symlink_to(f"..data/{name}")
        for name in shown - wanted:
            (self.folder / name).unlink()


class Volume(AtomicFolder):
    """One with a single file."""

    def __init__(self, folder: Path, path: str, text: str) -> None:
        self.file, self._path = folder / path, path
        super().__init__(folder, {path: text})

    def write(self, text: str) -> None:
        """Put a new text in the file's place."""
        self.write_all({self._path: text})
