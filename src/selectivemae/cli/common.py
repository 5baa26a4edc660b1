"""What all commands share: the layers of settings, logging, machine-readable results."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from selectivemae.core.config import Settings, read_recipe, read_yaml

T = TypeVar("T", bound=Settings)

ConfigFile = Annotated[Path | None, Parameter(help="YAML file of options; flags are stronger")]
Recipe = Annotated[str | None, Parameter(help="Named settings shipped with the package")]
Resume = Annotated[bool, Parameter(help="Continue the run in --out exactly; begin it when there is none", negative=())]
Overwrite = Annotated[bool, Parameter(help="Replace the run in --out", negative=())]
Json = Annotated[bool, Parameter(help="Print the result as JSON on stdout", negative=())]
Quiet = Annotated[bool, Parameter(help="No progress, only warnings", negative=())]
Verbose = Annotated[bool, Parameter(help="More detail in the log", negative=())]


def settings_from(
    kind: type[T],
    command: str,
    flags: T | None,
    recipe: str | None = None,
    config: Path | None = None,
    saved: dict[str, Any] | None = None,
) -> T:
    """One settled model from its layers: defaults < recipe < a resumed run's own < config file < flags."""
    given = flags.given() if flags else {}
    layers: list[dict[str, Any]] = [read_recipe(command, recipe) if recipe else {}, saved or {}]
    layers += [read_yaml(config) if config else {}, given]
    return kind.build(*layers, where=str(config) if config else "settings")


def set_up_logging(quiet: bool = False, verbose: bool = False) -> None:
    """Log to stderr, messages alone; the package's loggers only."""
    log = logging.getLogger("selectivemae")
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]


def print_json(result: Any) -> None:
    """Print a result for machines."""
    print(json.dumps(result, indent=1, default=str))
