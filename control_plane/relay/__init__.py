"""What one process asks others on the same PostgreSQL about the agents that are connected to them."""
