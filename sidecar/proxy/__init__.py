"""The relay: assigns an accepted connection to a class and connects it to its server."""
