"""The state bits of :mod:`traffic_policy.marks` in the step-aside datapath.

===========  ========================================  ==========================================
state bits   in the connection's mark                  in the mark of a queued packet
===========  ========================================  ==========================================
``0x0000``   not ours: by port, network, protocol      a later packet of the opening
``0x1000``   content may decide, nothing shown yet     its class is chosen: the class bits are valid
``0x3000``   content may decide, first bytes shown     the connection's first packet with data
``0x2000``   decided: the class bits are valid         decided: to be saved for the connection
===========  ========================================  ==========================================

With ``0x3000`` in the connection's mark and class bits beside it, the class is **chosen**: it counts, but packets with
data are still queued, since what comes may change it.

The kernel marks a connection's first packet with data, so that a new connection with the same addresses and ports is
never mistaken for a late packet of the previous one.
"""

from __future__ import annotations

from typing import Final

from traffic_policy.marks import CLASS_MASK, DIVERT, STATE_MASK, Mark

UNDECIDED_ASIDE: Final = DIVERT
"""In the connection's mark: content may decide, and nothing has been queued yet."""
SHOWN: Final = Mark(0x3000, STATE_MASK)
"""In the connection's mark: content may decide, and its first bytes have been queued."""
OPEN: Final = Mark(0x1000, 0x1000)
"""Either of the two."""
FIRST: Final = Mark(0x3000, STATE_MASK)
"""In a queued packet's mark: the connection's first packet with data."""
CHOSEN: Final = Mark(0x1000, STATE_MASK)
"""In a queued packet's mark, and in that of a verdict: the class is chosen and not decided yet. Of TCP only, as QUIC is
queued with the relay too, where this would be :data:`traffic_policy.marks.DIVERT`."""
CHOSEN_OR_DECIDED: Final = Mark(0x2000, 0x2000)
"""In the connection's mark: its class bits are valid, if it has some."""
UNCLASSED: Final = Mark(0, CLASS_MASK)
"""In the connection's mark: no class."""
DECIDED: Final = Mark(0x2000, STATE_MASK)
"""The same bit as :data:`traffic_policy.marks.OWN`, so :meth:`datapath.routing.cached.Routing.mark_of` gives decided
marks."""
OURS: Final = CLASS_MASK | STATE_MASK
"""All bits that a decision writes: class and state."""
