"""The command line. One module per verb; nobody imports this package."""
