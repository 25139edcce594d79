"""The control plane: what each team may use of the network, said once, recorded, and brought to every node.

:mod:`~control_plane.domain` decides, purely. :mod:`~control_plane.store` keeps what was decided.
"""
