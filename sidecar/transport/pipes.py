"""Pipes for splice(2): a direction borrows one while it moves bulk data, and returns it empty.

* A pipe that contains bytes belongs to the connection of these bytes. It never returns to the pool: the next borrower
  would send them on another connection.
* A pipe of the default 64 KiB moves as much per system call as a copy; with 1 MiB splice is faster. An unprivileged
  user has ``/proc/sys/fs/pipe-user-pages-soft`` (16,384 pages, so 64 such pipes); beyond that F_SETPIPE_SZ fails, and
  new pipes have 8 KiB, which is slower than copying. Pipes that are too small are closed; the borrower copies.
* The number of open pipes is bounded, so that bulk transfers cannot exhaust the descriptors that connections need.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

PIPE_SIZE: Final = 1 << 20
"""Bytes: the default maximum for unprivileged users (``/proc/sys/fs/pipe-max-size``)."""
SMALLEST_USEFUL: Final = 1 << 16
"""Bytes: the size of the copy buffer. A smaller pipe needs more system calls than copying."""
MAX_PIPES: Final = 128
"""Maximum of open pipes (two descriptors each). Further simultaneous transfers are copied."""
MAX_IDLE: Final = 32
"""Empty pipes kept for reuse (each some 10 KiB of kernel memory)."""


class Pipe:
    """A non-blocking pipe: its two descriptors, its capacity in bytes, and the borrower's count of bytes inside."""

    __slots__ = ("inside", "moved", "read_end", "size", "write_end")

    def __init__(self, size: int = PIPE_SIZE) -> None:
        """Raises OSError if no descriptor is left. The size may be smaller than requested."""
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
        except OSError:
            self.size = fcntl.fcntl(self.write_end, fcntl.F_GETPIPE_SZ)
        self.inside = 0  # bytes in it
        self.moved = 0  # bytes since it was lent, or since its source was last empty

    def close(self) -> None:
        """Close both ends; bytes inside are lost."""
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """Lends pipes. If ``borrow`` returns None, copy."""

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
        """An empty pipe, or None: too many are open, pipes are too small, or no descriptors are left."""
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
            # Retrying for each transfer would be wasted: use the existing pipes only.
            self._max_pipes = self.alive
            return None
        self.alive += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Return a pipe. If it contains bytes it is destroyed with them."""
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
