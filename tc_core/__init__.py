"""Linux traffic control as data: units, policies, the kernel model, and how to reconcile the two."""
