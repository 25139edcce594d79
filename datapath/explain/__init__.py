"""A policy in plain words and as the commands that it equals. Pure."""
