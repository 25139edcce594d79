"""The lifecycle of a sidecar: startup in order, reloads, shutdown in reverse order."""
