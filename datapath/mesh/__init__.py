"""Beside the proxy of a service mesh: whose packets leave the Pod then, and what they show.

Podlane sits behind that proxy: it takes what the proxy sends into the network, not what the application sends to it.
docs/how-to/mesh.md says what that means for users.
"""
