"""Floor 0: errors, configuration, files, order, progress and records. Nothing here imports torch."""
