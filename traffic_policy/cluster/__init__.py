"""Policies as objects of a Kubernetes cluster: what they may say, their definitions, and which one a Pod has."""
