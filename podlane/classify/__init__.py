"""Reads captures: from a pcap or pcapng file to flows, and from a flow to the class that a policy gives it.

    files     capture files, compressed or not              the only I/O: everything else is pure
    formats   pcap and pcapng
    links     link layers: the offset of the IP packet
    fragments reassembly of IP fragments
    flow      the data kept for a flow
    flows     packets -> flows: client and server, first bytes, byte counts
    verdicts  flow + policy -> class, and the reason         totals     sums by class, and their bar chart
    notes     remarks on a capture apart from its flows

Protocols and classes are not decided here, but in :mod:`datapath.protocols` (IP headers, the first bytes of a TCP
connection, the names in them, QUIC's too) and :class:`datapath.routing.table.RoutingTable`, the same code that serves
live connections.
"""
