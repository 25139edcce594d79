"""``podlane check``: the features that this kernel and the process's privileges allow."""
