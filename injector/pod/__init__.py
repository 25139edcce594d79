"""Decides about a Pod: the plan, the patch, warnings and refusals. Pure."""
