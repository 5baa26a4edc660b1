"""Detection of rotated boxes."""
