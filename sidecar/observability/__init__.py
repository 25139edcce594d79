"""What the sidecar tells: metrics, access log, and the documents of its admin port."""
