"""``podlane export``: annotations and ConfigMaps of Pods as TrafficPolicies.

command.py    the verb: from a namespace by kubectl, or from manifests
limits.py     what the objects of a namespace say about limits           (pure)
groups.py     which labels tell Pods with one policy from the others     (pure)
documents.py  TrafficPolicies as text, and what they cannot say          (pure)
"""
