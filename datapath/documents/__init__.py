"""What admin servers say of a data plane: the documents of :mod:`daemon.documents`, made from its state. Pure."""
