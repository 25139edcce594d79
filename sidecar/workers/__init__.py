"""The relay on several cores: worker processes beside the main one.

The main process keeps all that there is one of: policy, shaping, rules, admin server, signals, metrics. Each worker is
a :class:`~sidecar.proxy.server.ProxyServer` in a process of its own, with a listener of its own. All listeners have the
same address (SO_REUSEPORT, socket(7)), and the kernel spreads connections over them by a hash of the client's address
and port (xt_TPROXY finds them by inet_lookup_listener(), net/ipv4/inet_hashtables.c, which knows such groups).

::

    main process ── fork server          (forked before trio runs; has everything imported)
        │  ╲            │ forks
        │   listeners ══╪══> worker 1    accepts from its listener, relays
        └─ messages ════╧══> worker 2    ...

* **Forked, not executed.** trio and fork(2) do not mix once trio runs, so the main process forks a small server first,
  which has one thread and never runs trio itself (:mod:`.forkserver`). So a worker shares the memory of all imported
  modules: 7 MiB of its own where a program started afresh has 31, and 10 ms to the first connection instead of 350.
* **The listeners are the main process's.** It opens them and hands them out. When a worker dies its listener stays
  open, and what waits there is accepted by the next one: nothing is reset, as happens when a listener of such a group
  is closed. (net.ipv4.tcp_migrate_req, off by default, would move what waits to other listeners; it is not needed.)
* **Who outlives whom.** The fork server dies with the main process and workers with the fork server (PR_SET_PDEATHSIG),
  and end of file on a worker's messages ends it too. Each of them holds the lock of :mod:`datapath.instance_lock`, so
  that a new sidecar never meets a worker of an old one that still accepts.
* **The main process asks, workers answer** (:mod:`.messages`): once per second, as a sign of life, and whenever the
  admin server is asked, so that what it says is exact. A worker by itself has nothing to do while it is idle. What is
  lost with a worker that dies is what it counted after it was last asked, which nobody has seen.
"""
