"""Reading captures: from a pcap or pcapng file to flows, and from a flow to the class that a policy gives it.

    files     pcap and pcapng, by scapy's raw readers       the edge: everything else is pure
    links     link layers: where the IP packet begins
    fragments IP fragments put together
    flow      what is kept of a flow
    flows     packets -> flows: who is the client, what it said, how much went each way
    verdicts  flow + policy -> class, and why               totals     sums by class, and their bar chart
    notes     what to say of a capture besides its flows

What the bytes mean and which class they get is not decided here: that is :mod:`datapath.protocols` (IP headers, the
first bytes of a TCP connection, the names in them, QUIC's too) and :class:`datapath.routing.table.RoutingTable`, the
same code that serves live connections.
"""
