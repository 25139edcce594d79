"""What a sidecar tells over its admin port, as types: written by the sidecar, read by the command line.

One module per path. The attributes are the keys of the JSON object, and name their units. :mod:`.codec` is the way to
JSON and back, and :mod:`.reference` writes ``docs/reference/admin-api.md`` from the types.
"""
