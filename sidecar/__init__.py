"""The transparent proxy: detect what a connection is, choose its class, relay it under that class's mark."""
