"""Reading captures: from a pcap or pcapng file to flows, and from a flow to the class that a policy gives it.

    files     pcap and pcapng, by scapy's raw readers       the edge: everything else is pure
    links     link layers: where the IP packet begins
    packets   IPv4, IPv6 and its extension headers          fragments  IP fragments
    streams   the first bytes of one direction of TCP       quic       QUIC's datagrams, and what its client says
    flow      what is kept of a flow
    flows     packets -> flows: who is the client, what it said, how much went each way
    verdicts  flow + policy -> class, and why               totals     sums by class, and their bar chart

What the bytes mean and which class they get is not decided here: that is :class:`sidecar.protocols.detect.Detector`
and :class:`sidecar.routing.table.RoutingTable`, the same code that serves live connections.
"""
