"""Sockets: transparent listeners, marked dials and the epoll relay.

What the profile says (cProfile and schedstat, two cores, HTTP over TPROXY; keep it in mind when changing things):

* Bulk: 0.20 to 0.24 CPU seconds per GiB, as the bare technique without states and counting (0.21).
* Keep-alive requests: 13 us of CPU each; the bare technique 12.
* Short connections: 90 us of CPU each without detection; the bare technique, with its own simple parser, 60 to 70.
  connect(2) is the dearest call by far, then send(2), shutdown(2) and close(2). HTTP/1 detection by h11 adds 60 us,
  bytes of no known protocol 4 us.
* What paid: C-level sockets (5 us), a cheap clock (1 us), caching the parsed destination (6 us), no epoll_ctl after the
  registration, not reading when a short read has shown that nothing is left.
* A program that serves should freeze and rarely run the garbage collector (``gc.freeze``, ``gc.set_threshold``): closed
  connections leave no cycles, so there is nothing for it to find among tens of thousands of live objects.
"""
