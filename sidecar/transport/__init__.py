"""Sockets: transparent listeners, marked dials and the epoll relay.

Costs to keep in mind when changing this package (docs/explanation/benchmarks.md has figures):

* Bulk: nearly all CPU time is splice(2), most of it sending; states and counting add nothing measurable.
* A request on a kept-alive connection: nearly all is the system calls.
* A short connection: mostly the kernel's connect(2), two sends and the FINs. Of the rest detection costs most, then
  counting, then the table of states.
* Optimizations that paid: reading HTTP/1 heads by one regular expression instead of h11 (the largest gain); counting in
  plain integers that become metrics on request; reading the first bytes right after accept(2), without an event;
  sending them right after connect(2); waiting for the next event in epoll_wait instead of trio; no write events before
  a socket was full; three packets fewer, as the handshake's last ACK is sent with the first bytes, a FIN with the bytes
  before it, and the ACK of a whole request with its answer; C-level sockets; named tuples instead of frozen
  dataclasses; enum members as plain globals.
* Optimizations that did not: fewer attributes, fewer small calls. For bulk: TCP_CORK or another receive buffer size (no
  visible gain); SO_RCVLOWAT or a sleep before the next read (slower).
* A server should freeze and rarely run the garbage collector (``gc.freeze``, ``gc.set_threshold``): closed connections
  leave no cycles, so it would search tens of thousands of live objects in vain.
"""
