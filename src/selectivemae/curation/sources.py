"""What goes into a corpus: the sources file, checked key by key with line numbers.

    version: 1
    defaults: {min_side: 64, keep_whole: 1024}
    rules: {cloud: {drop: 0.7}}
    sources:
      - name: dota
        path: [dota/part1.zip]
        include: ["**/images/**"]
        licence: {id: cc-by-nc-4.0, redistribute: true}

Paths are taken relative to the file. Bare paths on the command line become sources with default settings.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from selectivemae.core.config import Settings
from selectivemae.core.errors import ConfigError, DecodeError
from selectivemae.core.suggest import did_you_mean
from selectivemae.curation.exclude import Rules
from selectivemae.curation.slice import SliceRules

Kind = Literal["auto", "folder", "zip", "tar", "webdataset", "parquet"]
Bands = Literal["auto", "rgb", "grey"] | tuple[int, int, int]


class Licence(Settings):
    """Terms of a source: an identifier (SPDX where there is one), where they are written, what they allow."""

    id: str = "unknown"
    url: str = ""
    redistribute: bool = True


class FromPath(Settings):
    """A value taken from a member's path: the named group of a regular expression, then a table of other names."""

    regex: str
    map: dict[str, str] = Field(default_factory=dict)

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except re.error as e:
            raise ValueError(f"no valid regular expression: {e}") from e
        if not groups:
            raise ValueError("has no named group, as in (?P<c>[^/]+)")
        return value

    def find(self, path: str) -> dict[str, str]:
        """The named groups found in ``path``, each through the table; empty without a match."""
        match = re.search(self.regex, path)
        return {k: self.map.get(v, v) for k, v in match.groupdict().items() if v} if match else {}


class FromColumn(Settings):
    """A value that a container holds for each image: a column of a Parquet file, a key of a WebDataset's ``json``, or
    its ``cls``; then a table of other names."""

    column: str = Field(min_length=1)
    map: dict[str, str] = Field(default_factory=dict)

    def find(self, values: dict[str, Any]) -> str | None:
        """The value among those of an image; None where there is none."""
        value = values.get(self.column)
        return None if value is None else self.map.get(str(value), str(value))


class Percentile(Settings):
    """Stretch from one percentile to another, taken from the whole scene."""

    percentile: tuple[float, float] = (2.0, 98.0)

    @field_validator("percentile")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError("must be two rising numbers from 0 to 100")
        return value


class Source(Settings):
    """One collection of archives or folders that are treated alike."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    path: tuple[str, ...]
    kind: Kind = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    bands: Bands = "auto"
    range: Literal["auto", "uint8"] | tuple[float, float] | Percentile = "auto"
    nodata: Literal["auto", "none"] | float | tuple[int, int, int] = "auto"
    grey: Literal["replicate", "drop"] = "replicate"
    gsd_m: Literal["auto"] | float | FromPath | FromColumn = "auto"
    licence: Licence = Licence()
    category: str | FromPath | FromColumn = ""
    date: str | FromPath | FromColumn | None = None
    split_role: Literal["train", "eval"] = "train"
    priority: int = 10
    slice: SliceRules = SliceRules()
    min_side: int = Field(default=64, ge=16)
    checksum: str = ""

    @field_validator("path", "include", "exclude", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("licence", mode="before")
    @classmethod
    def _in_braces(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"must be written as {{id: {value}, redistribute: true}}")
        return value

    @field_validator("bands")
    @classmethod
    def _from_one(cls, value: Bands) -> Bands:
        if not isinstance(value, str) and min(value) < 1:
            raise ValueError("bands are numbered from 1")
        return value

    @field_validator("gsd_m")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, float) and not value > 0:
            raise ValueError("must be more than 0 metres a pixel")
        return value

    @field_validator("date")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        if isinstance(value, str) and not re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", value):
            raise ValueError("must be YYYY, YYYY-MM or YYYY-MM-DD in quotes")
        return value

    @model_validator(mode="after")
    def _has_paths(self) -> "Source":
        if not self.path:
            raise ValueError("path is empty")
        return self

    @property
    def columns(self) -> set[str]:
        """Columns that the settings of an image are taken from."""
        return {value.column for value in (self.category, self.gsd_m, self.date) if isinstance(value, FromColumn)}

    def for_member(self, member: str, values: Callable[[], dict[str, Any]]) -> "Source":
        """The settings of one image: what depends on its path, or on what its container holds for it (``values``), as
        constants. DecodeError ``bad_gsd`` or ``bad_date`` where that is none."""
        held = values() if self.columns else {}
        update: dict[str, Any] = {}
        if isinstance(self.category, FromColumn):
            update["category"] = self.category.find(held) or ""
        if isinstance(self.date, FromColumn):
            update["date"] = self.date.find(held)
            if update["date"] and not re.match(r"\d{4}(-\d\d)*", update["date"]):
                raise DecodeError("bad_date", f"the date in its container is {update['date']!r}, not YYYY-MM-DD")
            update["date"] = update["date"][:10] if update["date"] else None
        if isinstance(self.gsd_m, FromPath):
            found = next(iter(self.gsd_m.find(member).values()), None)
            update["gsd_m"] = _metres(found) if found else "auto"
        elif isinstance(self.gsd_m, FromColumn):
            held_here = self.gsd_m.find(held)
            update["gsd_m"] = _metres(held_here) if held_here else "auto"
        return self.model_copy(update=update) if update else self

    def wants(self, member: str) -> bool:
        """Whether the globs let a member pass: one of ``include`` (if any) and none of ``exclude``."""
        if self.include and not any(_glob(pattern).fullmatch(member) for pattern in self.include):
            return False
        return not any(_glob(pattern).fullmatch(member) for pattern in self.exclude)


class Sources(Settings):
    """A sources file."""

    version: Literal[1] = 1
    sources: tuple[Source, ...] = ()
    categories: tuple[str, ...] = ()
    rules: Rules = Rules()
    licence_policy: Literal["warn", "deny_unknown"] = "warn"

    @model_validator(mode="after")
    def _distinct(self) -> "Sources":
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"source name {twice[0]!r} is given twice; names are part of every id and must differ")
        for source in self.sources if self.categories else ():
            named = [source.category] if isinstance(source.category, str) else source.category.map.values()
            if unknown := sorted(set(named) - {"", *self.categories}):
                raise ValueError(f"source {source.name}: category {unknown[0]!r} is not among categories")
        return self


def _metres(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise DecodeError("bad_gsd", f"its ground sampling distance is {text!r}, no number of metres")
    return value


def _glob(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: ``**`` crosses folders (``**/`` also none), ``*`` and ``?`` stay inside one."""
    out, place = "", 0
    while place < len(pattern):
        if pattern.startswith("**/", place):
            out, place = out + "(?:.*/)?", place + 3
        elif pattern.startswith("**", place):
            out, place = out + ".*", place + 2
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(pattern[place], re.escape(pattern[place]))
            place += 1
    return re.compile(out, re.DOTALL)


def read_sources(path: Path) -> Sources:
    """Read and check a sources file. ConfigError names file, line and key, and the nearest known key."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        raise ConfigError(f"{path}{f', line {mark.line + 1}' if mark else ''} is no valid YAML") from e
    if not isinstance(data, dict) or node is None:
        raise ConfigError(f"{path}: must hold the keys version and sources")
    defaults = data.pop("defaults", None) or {}
    if isinstance(defaults, dict) and "licence_policy" in defaults:  # of the whole file, yet it may stand there
        data.setdefault("licence_policy", defaults.pop("licence_policy"))
    listed = data.get("sources")
    if isinstance(listed, list) and isinstance(defaults, dict):
        data["sources"] = [defaults | entry if isinstance(entry, dict) else entry for entry in listed]
    try:
        sources = Sources.model_validate(data)
    except ValidationError as e:
        raise ConfigError(_complaint(path, e, node, defaults)) from e
    return sources.model_copy(update={"sources": tuple(_resolve(s, path.parent) for s in sources.sources)})


def sources_of_paths(paths: list[str]) -> tuple[Source, ...]:
    """Sources with default settings for bare paths; each is named after its last path component."""
    taken: dict[str, int] = {}
    out = []
    for path in paths:
        stem = re.sub(r"[^a-z0-9]+", "_", Path(path).name.split(".")[0].lower()).strip("_") or "source"
        taken[stem] = taken.get(stem, 0) + 1
        name = stem if taken[stem] == 1 else f"{stem}_{taken[stem]}"
        out.append(Source(name=name, path=(str(Path(path).absolute()),)))
    return tuple(out)


def _resolve(source: Source, folder: Path) -> Source:
    paths: list[str] = []
    for path in source.path:
        if "://" in path:
            paths.append(path)
            continue
        if any(sign in path for sign in "*?["):
            found = sorted(
                str(p) for p in Path(folder.anchor if path.startswith("/") else folder).glob(path.lstrip("/"))
            )
            if not found:
                raise ConfigError(f"source {source.name}: nothing matches {path}")
            paths += found
        else:
            paths.append(str((folder / path).absolute()))
    checksum = str((folder / source.checksum).absolute()) if source.checksum else ""
    return source.model_copy(update={"path": tuple(paths), "checksum": checksum})


def _complaint(path: Path, error: ValidationError, node: yaml.Node, defaults: dict[str, Any]) -> str:
    """The first complaint in one line: file, line, key, what is wrong."""
    problems = error.errors()
    same_key = [p for p in problems if p["loc"][:3] == problems[0]["loc"][:3]]
    deepest = max(len(p["loc"]) for p in same_key)
    forms = Counter(p["loc"][:-1] for p in same_key if len(p["loc"]) == deepest)
    problem = min(  # of the forms a key may have, the one that was meant: it fits best
        (p for p in same_key if len(p["loc"]) == deepest),
        key=lambda p: (forms[p["loc"][:-1]], p["type"] != "extra_forbidden"),
    )
    place = problem["loc"]
    line = _line(node, place)
    if len(place) > 2 and place[0] == "sources" and place[2] in defaults and not _has(node, place[:3]):
        line = _line(node, ("defaults", *place[2:]))
    where = ".".join(str(p) for p in place if not str(p).startswith(("tuple[", "literal[", "function-")))
    if problem["type"] == "extra_forbidden":
        *_, name = map(str, place)
        return f"{path}, line {line}: unknown key {name!r}{did_you_mean(name, list(_model_at(place).model_fields))}"
    message = problem["msg"].removeprefix("Value error, ")
    got = f" (got {problem['input']!r})" if isinstance(problem["input"], str | int | float) else ""
    return f"{path}, line {line}: {where + ': ' if where else ''}{message}{got}"


def _model_at(place: tuple[int | str, ...]) -> type[Settings]:
    """The settings in which the last key of a location was looked for."""
    model: type[Settings] = Sources
    inside: dict[str, type[Settings]] = {
        "FromColumn": FromColumn,
        "sources": Source,
        "slice": SliceRules,
        "rules": Rules,
        "licence": Licence,
    }
    for step in place[:-1]:
        model = inside.get(str(step), FromPath if step == "FromPath" else model)
    return model


def _has(node: yaml.Node, place: tuple[int | str, ...]) -> bool:
    return _find(node, place)[1] == len(place)


def _line(node: yaml.Node, place: tuple[int | str, ...]) -> int:
    return _find(node, place)[0]


def _find(node: yaml.Node, place: tuple[int | str, ...]) -> tuple[int, int]:
    """Line (from 1) of the deepest part of a location that the file holds, and how many steps it went down."""
    line, depth = node.start_mark.line + 1, 0
    for step in place:
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if match is None:
                break
            line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
        depth += 1
    return line, depth
