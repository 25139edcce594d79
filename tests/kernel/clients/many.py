"""A client that makes many connections, some at a time, one HTTP/1 request on each; prints how many were answered.

many.py ADDRESS PORT HOST TOTAL AT_ONCE
"""

from __future__ import annotations

import asyncio
import sys


async def ask(address: str, port: int, host: str) -> bool:
    """One connection; whether the answer is whole and says 200."""
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(f"GET /s HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"hello")


async def main(address: str, port: int, host: str, total: int, at_once: int) -> None:
    """Ask ``total`` times, ``at_once`` at a time."""
    room = asyncio.Semaphore(at_once)

    async def one() -> bool:
        async with room:
            return await ask(address, port, host)

    sys.stdout.write(str(sum(await asyncio.gather(*(one() for _ in range(total))))))


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
