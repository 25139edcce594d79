"""Memory that is free goes back to the system, as far as glibc can be told. With another C library nothing happens.

Python's own allocator returns only whole arenas of a MiB that are entirely free, which are rare. With
``PYTHONMALLOC=malloc``, as in the image, glibc manages all memory.
"""

from __future__ import annotations

import ctypes
from typing import Final

_libc: Final = ctypes.CDLL(None)
_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 64 * 1024


def trim() -> None:
    """Return every free page (malloc_trim(3))."""
    if (malloc_trim := getattr(_libc, "malloc_trim", None)) is not None:
        malloc_trim(0)


def unmap_large_blocks() -> None:
    """Give blocks of 64 KiB or more pages of their own, which are returned as soon as they are freed (mallopt(3)).

    By default the first large block that is freed raises this limit up to its size, and later ones are cut from the
    heap, where what outlives them keeps their pages.
    """
    if (mallopt := getattr(_libc, "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
