"""What ``podlane top`` does: it looks at classes again and again, and shows what happened between two looks.

::

    admin.py, interface.py    where readings come from: a sidecar's admin server, or the kernel   (I/O)
    readings.py               one look, as data
    rates.py                  two looks and more: rates, shares, the last minute                  (pure)
    columns.py, render.py     rows as cells, sorted; the picture of them                          (pure)
    connections.py            the same for live connections                                       (pure)
    keys.py, screen.py        a terminal: keys, redrawing                                         (I/O)
    printing.py               no terminal: a table, or lines of JSON
"""
