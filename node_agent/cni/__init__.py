"""Lanes before a Pod's first packet: a chained CNI plugin, which container runtimes start for each Pod, asks the agent.

* ``podlane-cni.c``: the plugin, a small program
* :mod:`node_agent.cni.call`: what it asks, pure
* :mod:`node_agent.cni.server`: the socket at which it asks
* :mod:`node_agent.cni.gate`: the answer
* :mod:`node_agent.cni.conflist`: where container runtimes find the plugin, pure
* :mod:`node_agent.cni.installer`: puts it there
"""
