"""The relay on several cores: worker processes in addition to the main process.

The main process owns everything that exists once: policy, shaping, rules, admin server, signals, metrics. Each worker
is a :class:`~sidecar.proxy.server.ProxyServer` in a process of its own, with a listener of its own. All listeners have
the same address (SO_REUSEPORT, socket(7)), and the kernel spreads connections over them by a hash of the client's
address and port (xt_TPROXY finds them by inet_lookup_listener(), net/ipv4/inet_hashtables.c, which supports such
groups).

::

    main process ── fork server          (forked before trio runs; has everything imported)
        │  ╲            │ forks
        │   listeners ══╪══> worker 1    accepts from its listener, relays
        └─ messages ════╧══> worker 2    ...

* **Forked, not executed.** fork(2) is unsafe once trio runs, so the main process first forks a small server with one
  thread that never runs trio itself (:mod:`.forkserver`). So workers share the memory of all imported modules, and
  start quickly.
* **The main process owns the listeners.** It opens them and passes them on. When a worker dies its listener stays open,
  and the next worker accepts its backlog: nothing is reset, unlike when a listener of such a group is closed.
  (net.ipv4.tcp_migrate_req, off by default, would move the backlog to other listeners; it is not needed.)
* **Lifetimes.** The fork server ends with the main process and workers with the fork server (PR_SET_PDEATHSIG); end of
  file on its messages ends a worker, too. Each of them holds the lock of :mod:`datapath.instance_lock`, so that a new
  sidecar cannot coexist with a worker of an old one that still accepts.
* **The main process asks, workers answer** (:mod:`.messages`): once per second, as a heartbeat, and for each request to
  the admin server, so that its answer is exact. An idle worker does nothing by itself. When a worker dies, only the
  counts since its last answer are lost, which have never been published.
"""
