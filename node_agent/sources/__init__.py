"""Where the wanted workloads come from. A source calls back with all of them, by name, each time one changes."""
