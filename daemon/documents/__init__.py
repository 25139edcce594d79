"""The types of the documents that a sidecar serves on its admin port, and the command line reads.

One module per path. The attributes are the keys of the JSON object, and name their units. :mod:`.codec` converts to
JSON and back, and :mod:`.reference` writes ``docs/reference/admin-api.md`` from the types.
"""
