"""Thousands of agents in one process, without lanes, kernel or root: their protocol, certificates and hashes are real.

For load on a control plane. A task of trio and a TLS stream of its own for each would cost several times as much as
non-blocking sockets on one epoll.
"""
