"""Fine-tuning tasks: each has data, model and metrics; what several share lies beside them."""
