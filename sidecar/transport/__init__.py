"""Sockets: transparent listeners, marked dials and the epoll relay.

What the profile says (perf and schedstat over TPROXY; the loop in turn with its clients and servers in one thread, on
loopback, for the figures below; keep it in mind when changing things):

* Bulk: 0.20 to 0.24 CPU seconds per GiB, as the bare technique without states and counting (0.21). 97 % of that is
  splice(2), in steps of 0.8 MiB, with one epoll_wait(2) for nine pairs of them; 77 % is sending.
* A request on a kept-alive connection: 12 us, of which 11 are the bare system calls.
* A short connection: 73 us, where the bare system calls in a straight line of Python, without detection, routing,
  states and metrics, take 56. It was 156. Most is the kernel's: connect(2), two sends and the FINs, each with its
  packet's whole way to the other side. Of the rest detection takes 3 to 5, counting 1.5, the table of states 1, other
  look-ups 0.5.
* What paid: reading HTTP/1 heads by one regular expression and not by h11 (most of it); counting in plain integers
  that become metrics when somebody asks; reading the first bytes right after accept(2), without an event; trying to
  send them right after connect(2); waiting for the next event in epoll_wait and not by way of trio; not being told
  that sockets are writable before one was full; three packets less, as the handshake's last ACK goes with the first
  bytes, a FIN with the bytes before it, and the ACK of a whole request with its answer; C-level sockets; named tuples
  instead of frozen dataclasses; enum members as plain globals.
* What is not worth it: fewer attributes (a Direction is made in 0.25 us), fewer small calls (setsockopt(2) is 0.3
  us). For bulk: TCP_CORK, or a receive buffer twice or half as large, whose gain is not to be seen among runs that
  spread by 12 %; SO_RCVLOWAT of 256 KiB, or 50 us of sleep before the next read, which cost 10 to 15 %.
* A program that serves should freeze and rarely run the garbage collector (``gc.freeze``, ``gc.set_threshold``):
  closed connections leave no cycles, so there is nothing for it to find among tens of thousands of live objects.
"""
