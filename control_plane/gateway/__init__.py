"""The agents' port: gRPC over mutual TLS for ten thousand streams, in one thread. Knows nothing of what they say."""
