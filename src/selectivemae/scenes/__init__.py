"""Whole scenes in, maps out: reading, windows, blending, rasters and vectors, for any callable of images."""
