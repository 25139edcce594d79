"""The webhook that puts Podlane's sidecar into Pods: ``pod`` decides, ``server`` answers, ``manifests`` edits files."""
