"""``podlane run``: a network namespace with access to the outside, in which the proxy and COMMAND run."""
