"""Netlink for all families: messages and attributes as bytes (:mod:`.codec`), and a socket (:mod:`.socket`).

What a family puts into them is where it is used: :mod:`tc_core.rtnetlink` for links, routes and traffic control;
:mod:`.netfilter` has the head that netfilter's subsystems share.
"""
