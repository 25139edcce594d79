"""The node's agent among network namespaces that stand for Pods: memory, CPU, adoption, Pods that come at a rate."""
