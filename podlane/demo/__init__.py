"""What ``podlane demo`` shows: the lanes and the story as data, the servers and clients, the measuring, the report."""
