"""The control plane's own certificate authority: agents' identities, their certificates, the roots that sign them."""
