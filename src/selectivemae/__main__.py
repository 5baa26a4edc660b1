"""``python -m selectivemae``."""

from selectivemae.cli.main import entry

entry()
