"""Injection into YAML and JSON text. Pure."""
