"""The control plane with thousands of simulated agents: how soon a change is in force, and what all of it costs."""
