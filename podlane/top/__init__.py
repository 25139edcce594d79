"""``podlane top``: reads the classes periodically, and shows the change between two readings.

::

    admin.py, interface.py    sources of readings: a sidecar's admin server, or the kernel        (I/O)
    readings.py               one reading, as data
    rates.py                  two or more readings: rates, shares, the last minute                (pure)
    columns.py, render.py     rows as cells, sorted; their display                                (pure)
    connections.py            the same for live connections                                       (pure)
    keys.py, screen.py        a terminal: keys, redrawing                                         (I/O)
    printing.py               without a terminal: a table, or lines of JSON
"""
