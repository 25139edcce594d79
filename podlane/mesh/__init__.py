"""The verb ``podlane mesh``."""
