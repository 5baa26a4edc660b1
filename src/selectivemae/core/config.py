"""Settings: frozen models, read from defaults < recipe < config file < flags, written back as one settled file.

Every command has one model of settings beside the thing it configures. A flag ``--image-size``, a key ``image_size``
in a file and a field ``image_size`` are the same thing.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from selectivemae.core.errors import ConfigError
from selectivemae.core.files import atomic_write
from selectivemae.core.suggest import did_you_mean


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    alternatives: ClassVar[tuple[str, ...]] = ()
    """Fields of which one is given: in a stronger layer it replaces any of them in weaker ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """Only the fields that were given, not those left at their defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def settled(self) -> dict[str, Any]:
        """All fields as plain data (JSON types)."""
        return json.loads(self.model_dump_json())

    @classmethod
    def yielding(cls, weaker: dict[str, Any], stronger: dict[str, Any]) -> dict[str, Any]:
        """What is left of a weaker layer under a stronger one, beside ``alternatives``: everything, by default."""
        return weaker

    @classmethod
    def build(cls, *layers: dict[str, Any], where: str = "settings") -> Self:
        """Validate layers of plain data, later ones stronger. ConfigError says in one line what does not fit."""
        merged: dict[str, Any] = {}
        for layer in layers:
            if any(layer.get(name) is not None for name in cls.alternatives):
                merged = {k: v for k, v in merged.items() if k not in cls.alternatives}
            merged = cls.yielding(merged, layer) | layer
        try:
            return cls.model_validate(merged)
        except ValidationError as e:
            raise ConfigError(f"{where}: {first_problem(e, list(cls.model_fields))}") from e


def first_problem(error: ValidationError, known: list[str]) -> str:
    """The first complaint of a validation in one line, with the option's name as a flag."""
    problem = error.errors()[0]
    place = ".".join(str(p) for p in problem["loc"]) or "options"
    flag = "--" + place.split(".")[0].replace("_", "-")
    if problem["type"] == "extra_forbidden":
        return f"unknown key {place!r}{did_you_mean(place, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and not problem["loc"]:
        return message
    return f"{flag}: {message[0].lower() + message[1:]} (got {problem['input']!r})"


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file; dashes in keys may be written for underscores. ConfigError names the line."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line} is no valid YAML") from e
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(data).__name__}")
    return {str(k).replace("-", "_"): v for k, v in data.items()}


def recipe_names(command: str) -> list[str]:
    """Names of the recipes shipped for a command."""
    folder = resources.files("selectivemae") / "recipes" / command
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def read_recipe(command: str, name: str) -> dict[str, Any]:
    """The keys of a shipped recipe. ConfigError for an unknown name."""
    known = recipe_names(command)
    if name not in known:
        raise ConfigError(f"unknown recipe {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    return read_yaml(Path(str(resources.files("selectivemae") / "recipes" / command / f"{name}.yaml")))


def write_settled(path: Path, settled: dict[str, Any], about: dict[str, Any]) -> None:
    """Write settled settings, with what made them (version, commit, command line) as comments at the head."""
    head = "".join(f"# {k}: {v}\n" for k, v in about.items())
    atomic_write(path, head + yaml.safe_dump(settled, sort_keys=False, allow_unicode=True))
