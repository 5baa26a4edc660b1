"""Floor 5: pages, tables and plots made from records on disk. Nothing here imports torch."""
