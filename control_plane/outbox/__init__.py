"""Hands the logs on to Kafka: each event at least once, in the order of its tenant's log. The database stays the truth.

Who reads the topic drops positions that it has seen (:mod:`control_plane.outbox.messages`).
"""
