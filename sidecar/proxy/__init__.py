"""The relay: from an accepted connection to its class and its server."""
