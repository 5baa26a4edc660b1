"""selectivemae: pre-train, judge and fine-tune vision models on satellite and aerial imagery."""
