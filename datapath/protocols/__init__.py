"""Sans-I/O protocol detection: bytes in, findings out."""
