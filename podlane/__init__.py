"""The command line. One module per verb; no other package imports this one."""
