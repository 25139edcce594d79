"""The mangle ruleset and policy routing that bring connections to the proxy: as data, and installed."""
