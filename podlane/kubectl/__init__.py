"""``kubectl podlane``: who holds Pods to their limits, by what, and what they do.

All that is asked goes through kubectl itself, so flags, kubeconfigs and ways to log in are kubectl's. An agent, or a
sidecar, is asked by ``kubectl port-forward``: sidecars serve on loopback, where neither the API server's proxy nor
anything else from outside comes, and ``kubectl exec`` would start an interpreter in the memory of the Pod.

::

    cluster.py    kubectl: objects, forwarded ports, errors with remedies    (I/O)
    agents.py     the agents of a cluster, as their Pods describe them       (pure)
    holder.py     who holds a Pod, and why                                   (pure)
    reach.py      documents of agents and sidecars                           (I/O)
    explain.py, status.py, top.py    the verbs
"""
