"""The protocol between the agents of nodes and the control plane: messages, versions, limits. Knows neither of them."""
