"""The process above the proxy: it starts it, watches it, and sees to new connections while it is gone.

::

    podlane sidecar  ──exec──>  supervisor          pid 1 of the container; a bare interpreter
                                    │ spawns, again and again
                                  proxy             --supervised; all there is to a sidecar, with its workers
                                    ├── a socket pair, over which go the messages of :mod:`.wire`
                                    └── a shared page with its signs of life (:mod:`.beats`)

* **It is small.** 7 MiB of its own, for which it does without dataclasses, and imports little beside sockets and JSON.
* **It knows nothing.** Policy, rules and settings are the proxy's; of the class ids in force it keeps a copy for the
  next one, unread. Before the proxy installs rules that capture, it
  hands over what is to be run if it should be gone: programs with their input, one for each address family
  (:mod:`datapath.netfilter.fallback`). At that moment nothing has to be read, imported or asked for.
* **It decides by a table** (:mod:`.life`, pure): an end that nobody asked for, silence, a start that does not get on.
* **Silence has two steps.** After the first, capture is taken away, which harms nobody and can be undone: if the proxy
  speaks again it puts its rules back. Only after the second it is killed, which costs its connections.
* **Who outlives whom.** The proxy notices the supervisor's end by end of file, does what was to be done in its own
  case, and ends: the next start finds neither a proxy nor a capture that leads nowhere. If both are killed at once the
  rules stay, and captured connections wait for the next start.
"""
