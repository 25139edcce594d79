"""REST: OpenAPI 3.1, errors as application/problem+json (RFC 9457) with the remedy."""
