"""Commands are decided into events, and state is what the events say. Pure."""
