"""What a service mesh's own proxy can be told to do for a policy, for those who want no second proxy. Pure."""
