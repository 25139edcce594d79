"""Compiles a policy to the trees of an interface. Pure."""
