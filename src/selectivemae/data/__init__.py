"""Floor 2: from bytes on disk to uint8 batches on the device."""
