"""What the running kernel can do, found out by trying it in a scratch network namespace."""
