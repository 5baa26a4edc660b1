"""Floor 4: pre-training, from images to weights."""
