"""Who asks, how often, and what was refused: what stands before the operations."""
