"""The second way to install rules: python-iptables, which reaches legacy tables without programs."""
