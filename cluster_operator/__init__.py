"""The operator of a cluster: says in the status of TrafficPolicies and ClusterTrafficPolicies what became of them.

It puts nothing in force: agents read policies themselves, and go on without it. Sidecars cannot, so it writes on their
Pods which policy these have. It joins policies, Pods and what agents report of them, and writes status and Events. Of
several operators the one that holds a Lease does so.
"""
