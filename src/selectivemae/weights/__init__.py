"""Floor 3: weight files of every known layout, read, converted and written."""
