"""Floor 3: the one training loop, which knows no task."""
