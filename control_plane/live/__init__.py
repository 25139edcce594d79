"""What is seen while it happens: windows into lists and series, sent by WebSocket to whoever looks at them."""
