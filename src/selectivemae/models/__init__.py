"""Floor 2: the encoders and the masked autoencoders, on timm's blocks."""
