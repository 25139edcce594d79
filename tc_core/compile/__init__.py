"""From a policy to the trees that an interface should have. Pure."""
