"""The agent's connection to a control plane: who it is, what it was told last, what it tells. Lanes do not need it."""
