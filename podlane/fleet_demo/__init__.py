"""``podlane fleet-demo``: a control plane and five agents on this machine, with real traffic."""
