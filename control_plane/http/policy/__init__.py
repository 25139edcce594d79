"""What is asked about a policy before it is in force: what it would change, and where a connection would go."""
