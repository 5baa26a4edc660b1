"""Floor 6: the program selectivemae, one thin file a command."""
