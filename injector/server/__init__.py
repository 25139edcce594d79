"""The webhook server: certificates, the API server, health and metrics."""
