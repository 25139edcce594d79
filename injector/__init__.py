"""The webhook that puts Podlane's sidecar into Pods. Pure in the middle: Pod, defaults -> plan -> changes -> patch."""
