"""Building captures for tests: TCP conversations as scapy packets, and running them through a flow table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from podlane.classify.flow import Flow
from podlane.classify.flows import FlowTable

ETHERNET = 1
RAW = 101


@dataclass
class Talk:
    """A TCP connection under way: each call gives the IP packet of one segment and moves the sequence numbers on."""

    client: str = "10.0.0.2"
    sport: int = 40_000
    server: str = "10.0.0.1"
    dport: int = 443
    client_next: int = 1_000
    server_next: int = 9_000
    packets: list[Packet] = field(default_factory=list)

    def up(self, data: bytes = b"", flags: str = "A") -> Packet:
        """From the client."""
        packet = self._ip(self.client, self.server) / TCP(
            sport=self.sport, dport=self.dport, flags=flags, seq=self.client_next % 2**32, ack=self.server_next % 2**32
        )
        self.client_next += len(data) + ("S" in flags) + ("F" in flags)
        return self._kept(packet, data)

    def down(self, data: bytes = b"", flags: str = "A") -> Packet:
        """From the server."""
        packet = self._ip(self.server, self.client) / TCP(
            sport=self.dport, dport=self.sport, flags=flags, seq=self.server_next % 2**32, ack=self.client_next % 2**32
        )
        self.server_next += len(data) + ("S" in flags) + ("F" in flags)
        return self._kept(packet, data)

    def open(self) -> Talk:
        """The handshake."""
        self.up(flags="S")
        self.down(flags="SA")
        self.up()
        return self

    def close(self) -> Talk:
        """FIN and FIN."""
        self.up(flags="FA")
        self.down(flags="FA")
        self.up()
        return self

    def _kept(self, packet: Packet, data: bytes) -> Packet:
        made = packet / Raw(data) if data else packet
        self.packets.append(made)
        return made

    @staticmethod
    def _ip(source: str, destination: str) -> Packet:
        return (IPv6 if ":" in source else IP)(src=source, dst=destination)


def flows(
    packets: Iterable[Packet | bytes], link_type: int = RAW, *, seconds: float = 0.001, **limits: int
) -> tuple[list[Flow], FlowTable]:
    """The flows of these packets, one every ``seconds``, and the table that found them."""
    given: list[Flow] = []
    table = FlowTable(given.append, **limits)
    for index, packet in enumerate(packets):
        frame = bytes(packet)
        table.add(link_type, frame, len(frame), index * seconds)
    table.finish()
    return given, table


def ethernet(packet: Packet) -> bytes:
    """The frame that carries an IP packet."""
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)
