"""Shared by the long-running processes of Podlane: an HTTP server, and the documents it serves."""
