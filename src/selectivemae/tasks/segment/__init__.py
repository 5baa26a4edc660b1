"""Semantic segmentation: UPerNet on dense features."""
