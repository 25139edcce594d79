"""Operation in a Pod with a service mesh's proxy: which packets leave the Pod, and what they reveal.

Podlane sits behind that proxy: it captures what the proxy sends to the network, not what the application sends to the
proxy. docs/how-to/mesh.md describes the consequences for users.
"""
