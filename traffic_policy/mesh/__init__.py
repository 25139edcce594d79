"""Configuration of a service mesh's own proxy from a policy, so that it sets the marks by name itself. Pure."""
