"""The life of a sidecar: brought up in order, reloaded, and taken down in reverse."""
