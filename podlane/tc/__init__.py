"""``podlane tc``: shows and changes the traffic control of an interface, and keeps a history of changes.

:mod:`podlane.tc.tree` and :mod:`podlane.tc.words` are pure: they turn what was read into a tree of classes and its
description. :mod:`tc_core.apply` changes interfaces and records the changes.
"""
