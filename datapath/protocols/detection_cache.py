"""First bytes that come again and again: clients without keep-alive repeat their requests."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Final

from datapath.protocols.detect import Detection, detect_at_once
from datapath.protocols.sniff import TLS_BEGINNING

_ALIKE: Final = 512
"""Bytes at most that are looked up instead of read again."""
_REMEMBERED: Final = 1024
"""Beginnings."""

# A head may have a password or a cookie, which is not to stay here for longer than its connection. So it is known by a
# digest (RFC 7693) that nobody can try guesses at without the key, nor find two heads for.
_blank: Final = blake2b(digest_size=16, key=os.urandom(blake2b.MAX_KEY_SIZE))
_remembered: Final[dict[bytes, Detection | None]] = {}


def detect_repeated(data: bytes) -> Detection | None:
    """As :func:`detect_at_once`, from memory where that may help. Several threads may call it."""
    # Hellos differ each time.
    if len(data) > _ALIKE or data[:1] == TLS_BEGINNING[:1]:
        return detect_at_once(data)
    keyed = _blank.copy()
    keyed.update(data)
    digest = keyed.digest()
    try:
        return _remembered[digest]
    except KeyError:
        detection = detect_at_once(data)
    if len(_remembered) >= _REMEMBERED:
        _remembered.clear()  # what comes again is soon back
    _remembered[digest] = detection
    return detection
