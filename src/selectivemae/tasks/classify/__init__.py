"""Scene classification: fine-tuning by the published recipe, and its evaluation."""
