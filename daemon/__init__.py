"""What every long-running process of Podlane has in common: an HTTP server, and the documents it serves."""
