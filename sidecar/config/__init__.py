"""Settings, policy files and annotations: how they are read, and when they have changed."""
