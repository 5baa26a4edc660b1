"""Detection of upright boxes."""
