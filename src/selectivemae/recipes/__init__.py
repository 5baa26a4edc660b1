"""Named settings, shipped as data: one folder a command, one YAML file a recipe."""
