"""Heads on a backbone's four maps."""
