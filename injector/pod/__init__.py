"""From a Pod to what an admission answers: the plan, the patch, warnings and refusals. Pure."""
