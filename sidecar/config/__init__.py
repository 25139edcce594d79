"""Settings, policy files and annotations: reading them, and detecting changes."""
