"""The event store: what was decided, in order, for good. SQLite or PostgreSQL.

Each tenant has a log of its own. Its events are numbered from 1 without gaps, and each has the digest of the one
before in its own, so that a change afterwards shows.
"""
