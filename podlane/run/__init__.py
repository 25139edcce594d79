"""``podlane run``: a namespace with a way to the outside, the proxy in it, and COMMAND beside the proxy."""
