"""``podlane demo``: classes and story as data, servers and clients, measurement, report."""
