"""Verbs that are clients of a control plane's REST API."""
