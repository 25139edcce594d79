"""The node's agent: gives the workloads of a node their lanes, each in its own network namespace, without a sidecar.

* :mod:`node_agent.workload`: what is wanted, pure
* :mod:`node_agent.sources`: where that comes from: a file, or the API server
* :mod:`node_agent.lanes`: one workload's lanes, from its network namespace to their end
* :mod:`node_agent.agent`: all of them, kept equal to what is wanted
"""
