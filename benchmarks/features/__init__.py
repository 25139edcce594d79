"""What each feature costs against it being off: pairs of Podlane with and without it, side by side."""
