"""A QUIC client: quic_client.py ADDRESS PORT NAME VERSION OFFERS. It connects, pings and leaves.

VERSION is 1 or 2; OFFERS are ALPN names, divided by commas.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

_VERSIONS = {"1": QuicProtocolVersion.VERSION_1, "2": QuicProtocolVersion.VERSION_2}


async def main(address: str, port: str, name: str, version: str, offers: str) -> None:
    """Raises ConnectionError when there is no connection."""
    configuration = QuicConfiguration(
        is_client=True,
        server_name=name,
        alpn_protocols=offers.split(","),
        original_version=_VERSIONS[version],
        supported_versions=[_VERSIONS[version]],
        verify_mode=ssl.CERT_NONE,
    )
    async with connect(address, int(port), configuration=configuration) as connection:
        await connection.ping()


asyncio.run(main(*sys.argv[1:6]))
