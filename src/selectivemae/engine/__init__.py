"""Floor 3: the one training loop. It knows steps, checkpoints, records and signals, and no task."""
