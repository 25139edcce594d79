"""The sidecar's metrics, access log, and the documents of its admin port."""
