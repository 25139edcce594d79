"""Alerts by REST."""
