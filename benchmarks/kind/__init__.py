"""Podlane in real Pods of a kind cluster, or of any other: beside Pods without it, and beside the bandwidth plugin."""
