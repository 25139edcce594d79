"""Pipes for splice(2): a direction borrows one while it moves bulk data, and gives it back empty.

* A pipe with bytes in it belongs to the connection whose bytes they are. It never goes back to the pool: the next
  borrower would send them to somebody else.
* A pipe of the default 64 KiB moves as much per system call as a copy does; with 1 MiB splice wins. An unprivileged
  user has ``/proc/sys/fs/pipe-user-pages-soft`` (16,384 pages, so 64 such pipes); then F_SETPIPE_SZ is refused, and
  later pipes are born with 8 KiB, which is worse than copying. What is too small is closed again; the borrower copies.
* The number of pipes alive is bounded, so that bulk transfers cannot eat the descriptors that connections need.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

PIPE_SIZE: Final = 1 << 20
"""Bytes: the most that an ordinary user may ask for (``/proc/sys/fs/pipe-max-size``, unless somebody changed it)."""
SMALLEST_USEFUL: Final = 1 << 16
"""Bytes: the size of the copy buffer. A smaller pipe needs more system calls than copying."""
MAX_PIPES: Final = 128
"""Pipes alive at once (two descriptors each). More transfers than that in the same instant are copied."""
MAX_IDLE: Final = 32
"""Empty pipes kept for the next borrower (each some 10 KiB of kernel memory)."""


class Pipe:
    """A non-blocking pipe: its two descriptors, its capacity in bytes, and the borrower's account of what is inside."""

    __slots__ = ("inside", "moved", "read_end", "size", "write_end")

    def __init__(self, size: int = PIPE_SIZE) -> None:
        """Raises OSError when there is no descriptor left. The size may come out smaller than asked for."""
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
        except OSError:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_GETPIPE_SZ)
        self.inside = 0  # bytes in it
        self.moved = 0  # bytes since it was lent, or since its source was last empty

    def close(self) -> None:
        """Close both ends; what is inside is lost."""
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """Lends pipes. ``borrow`` may say no: then copy."""

    def __init__(self, max_pipes: int = MAX_PIPES, max_idle: int = MAX_IDLE, size: int = PIPE_SIZE) -> None:
        self._idle: list[Pipe] = []
        self._max_pipes = max_pipes
        self._max_idle = max_idle
        self._size = size
        self.alive = 0

    @property
    def idle(self) -> int:
        """Empty pipes waiting to be lent."""
        return len(self._idle)

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None when there is none to be had: too many alive, too small, no descriptors."""
        if self._idle:
            return self._idle.pop()
        if self.alive >= self._max_pipes:
            return None
        try:
            pipe = Pipe(self._size)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                return None
            raise
        if pipe.size < SMALLEST_USEFUL:
            pipe.close()
            # Asking again for each transfer would be wasted: stay with the pipes there are.
            self._max_pipes = self.alive
            return None
        self.alive += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Return a pipe. With bytes inside it is destroyed, and they with it."""
        if pipe.inside or len(self._idle) >= self._max_idle:
            self.alive -= 1
            pipe.close()
        else:
            pipe.moved = 0
            self._idle.append(pipe)

    def close(self) -> None:
        """Close the pipes that are not lent."""
        while self._idle:
            self.alive -= 1
            self._idle.pop().close()
