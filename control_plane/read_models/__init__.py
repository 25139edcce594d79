"""What queries read: tables made from the events, at will again. Writing knows nothing of them.

``projection`` says what an event changes in them, ``listing`` how they are filtered, sorted and paged; both are pure.
"""
