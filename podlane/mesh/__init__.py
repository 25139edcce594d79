"""Configuration of a service mesh's own proxy from a policy, as an alternative to a second proxy. Pure."""
