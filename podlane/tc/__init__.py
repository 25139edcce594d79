"""What ``podlane tc`` does: looking at the traffic control of an interface, changing it, and what the history says.

:mod:`podlane.tc.tree` and :mod:`podlane.tc.words` are pure: what was read becomes a tree of lanes and its
words. What is done to an interface, and written down, is in :mod:`tc_core.apply`.
"""
