"""What users write and what it means: the grammar of policies, units, validation, schema, words. Pure."""
