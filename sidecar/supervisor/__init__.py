"""The parent process of the proxy: starts it, monitors it, and handles new connections while it does not run.

::

    podlane sidecar  ──exec──>  supervisor          pid 1 of the container; a bare interpreter
                                    │ spawns, and respawns
                                  proxy             --supervised; the whole sidecar, with its workers
                                    ├── a socket pair for the messages of :mod:`.ipc`
                                    └── a shared page with its heartbeats (:mod:`.heartbeat`)

* **It is small.** It does without dataclasses, and imports little more than sockets and JSON.
* **It has no state of its own.** Policy, rules and settings are the proxy's; it keeps an opaque copy of the class ids
  in force for the next proxy. Before the proxy installs capture rules, it hands over the fallback: programs with their
  input, one for each address family (:mod:`datapath.netfilter.fallback`). So when the proxy dies, nothing must be read,
  imported or queried.
* **It decides by a table** (:mod:`.watchdog`, pure): on an unexpected exit, a missing heartbeat, a start that does not
  complete.
* **A missing heartbeat has two stages.** In the first, capture is removed, which is harmless and reversible: if the
  proxy resumes, it reinstalls its rules. Only in the second is the proxy killed, which ends its connections.
* **It holds what others could take** while there is no proxy: the listeners of the admin server.
* **Probes ask it** (:mod:`.control`), by a socket that no other user and no other container can reach.
* **Lifetimes.** The proxy notices the supervisor's exit by end of file, runs its own fallback, and exits: the next
  start finds neither a proxy nor capture rules without a listener. If both are killed at once the rules stay, and
  captured connections wait for the next start.
"""
