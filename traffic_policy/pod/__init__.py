"""What Podlane's annotations on a Pod mean: read the same way by the injector and by the sidecar. Pure."""
