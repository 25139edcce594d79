"""The file that a downward API volume makes of a Pod's annotations. Pure.

``fieldRef: metadata.annotations`` becomes one line for each annotation, sorted, ``key="value"`` with the value quoted
as Go's ``strconv.Quote`` does (``FormatMap`` of k8s.io/kubernetes, pkg/fieldpath/fieldpath.go): a line break is always
written ``\\n``, so that a line is an annotation.
"""

from __future__ import annotations

import re
from typing import Final

from traffic_policy.pod.errors import DownwardError

_LINE: Final = re.compile(r'(?P<key>[^="]+)="(?P<value>(?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SHORT: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"',
}  # fmt: skip
_SURROGATES: Final = range(0xD800, 0xE000)


def read_annotations(text: str) -> dict[str, str]:
    """The annotations in such a file; an empty one has none. Raises :class:`DownwardError` with the line's number."""
    annotations: dict[str, str] = {}
    # Not splitlines(): that breaks at characters which a value may hold as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise DownwardError(
                f'Line {number} is not key="value". '
                "Give the file that a downward API volume with fieldPath metadata.annotations makes."
            )
        annotations[match["key"]] = _unquoted(match["value"], number)
    return annotations


def _unquoted(quoted: str, line: int) -> str:
    """What ``strconv.Quote`` was given. Bytes that were no UTF-8 (``\\xff``) become U+FFFD, as in the API's JSON."""

    def meant(match: re.Match[str]) -> str:
        byte, short_code, long_code, letter = match.groups()
        if byte is not None:
            code = int(byte, 16)
            return chr(code) if code < 0x80 else "\ufffd"
        if letter is not None:
            if letter not in _SHORT:
                raise DownwardError(f"Line {line} has the unknown escape \\{letter}. Write it as strconv.Quote does.")
            return _SHORT[letter]
        code = int(short_code or long_code, 16)
        if code > 0x10FFFF or code in _SURROGATES:
            raise DownwardError(f"Line {line} names the character {match[0]}, which there is not. Write another.")
        return chr(code)

    return _ESCAPE.sub(meant, quoted)
