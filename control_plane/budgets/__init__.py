"""What went through lanes in each day, and how much of which budget that is."""
