"""Floor 4: what frozen features are worth: nearest neighbours, linear and few-shot classifiers."""
