"""What the kubelet does for a downward API volume of annotations: the text, and how the file is exchanged."""

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


class Volume:
    """A folder whose files change all at once, as k8s.io/kubernetes does it (pkg/volume/util/atomic_writer.go)."""

    def __init__(self, folder: Path, name: str, text: str) -> None:
        self.folder, self.file = folder, folder / name
        self._versions = 0
        folder.mkdir()
        self.write(text)
        self.file.symlink_to(f"..data/{name}")

    def write(self, text: str) -> None:
        """Put a new text in the file's place."""
        self._versions += 1
        version = self.folder / f"..version_{self._versions}"
        version.mkdir()
        (version / self.file.name).write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, self.folder / "..data")
