"""The webhook that injects the sidecar: ``pod`` decides, ``server`` answers, ``manifests`` edits files."""
