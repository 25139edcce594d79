"""Agents: how they join, what they are told, and what they tell."""
