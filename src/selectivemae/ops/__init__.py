"""Floor 1: pure functions of tensors or arrays."""
