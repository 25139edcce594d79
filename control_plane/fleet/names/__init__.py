"""Names that connections had, and how many each match has taken: what agents say of it, and what is kept."""
