"""Known corpora and data sets by name: what they hold, under which terms, where they are, and where they lie here.

DATA_ROOT/
  NAME/       or the data set's own name, in any case and with any punctuation (aid, AID, NWPU-RESISC45)
    ...       as published; ``data get NAME --out DATA_ROOT`` fills it
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from selectivemae.core.config import Settings
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.suggest import did_you_mean

_ENOUGH = 0.9  # share of paths that must look like a data set's


class Download(Settings):
    """One file that can be fetched: from ``url``, or from the data set's hub repository where that is empty."""

    file: str
    url: str = ""
    digest: str  # "md5:..." or "sha256:..."


class Known(Settings):
    """One entry of ``known.yaml``, whose head explains the fields."""

    name: str
    title: str
    use: str
    images: int
    about: str
    classes: int | None = None
    split: str = ""
    licence: str
    source: str
    layout: str
    hub: str = ""
    files: tuple[Download, ...] = ()
    by_hand: str = ""
    then: str = ""
    folders: tuple[str, ...] = ()
    places: tuple[tuple[str, ...], ...]
    mark: str = ""
    unverified: tuple[str, ...] = ()

    @property
    def how(self) -> str:
        """How to get it, in words."""
        return f"by hand from {self.by_hand}" if self.by_hand else f"selectivemae data get {self.name} --out DIR"


@cache
def known() -> tuple[Known, ...]:
    """All known corpora and data sets."""
    text = (resources.files("selectivemae") / "data" / "known.yaml").read_text(encoding="utf-8")
    return tuple(Known.model_validate(entry) for entry in yaml.safe_load(text))


def find(name: str) -> Known:
    """The data set called ``name`` (case does not matter); ConfigError with the nearest known name."""
    names = [entry.name for entry in known()]
    if name.lower() not in names:
        raise ConfigError(
            f"no data set {name!r} is known{did_you_mean(name.lower(), names)} (see selectivemae data list)"
        )
    return known()[names.index(name.lower())]


def resolve(name: str, root: Path) -> list[str]:
    """Where the images of a known data set lie under ``root``: folders and archives, sorted.

    ConfigError for an unknown name; DataError when the data set is not there, or not yet as it can be read.
    """
    entry, folder = find(name), folder_of(name, root)
    for line in entry.places:
        found = sorted({str(match) for place in line for match in ([folder] if place == "." else folder.glob(place))})
        if found:
            return found
    expected = " or ".join(", ".join(line) for line in entry.places)
    todo = f"; {entry.then}" if entry.then else ""
    raise DataError(f"{folder}: {entry.title} is not laid out as expected (no {expected} in it){todo}")


def folder_of(name: str, root: Path) -> Path:
    """The folder of a known data set under ``root``, by its name or another that it goes by.

    ConfigError for an unknown name; DataError when it is not there.
    """
    entry = find(name)
    wanted = [_plain(alias) for alias in (entry.name, entry.title, *entry.folders)]
    folders = [f for f in root.iterdir() if f.is_dir() and _plain(f.name) in wanted] if root.is_dir() else []
    if not folders:
        raise DataError(f"{root}: has no folder {entry.name} (or {entry.title}); get it {_by(entry)}")
    return min(folders, key=lambda f: (wanted.index(_plain(f.name)), f.name))


def resolve_all(data: Sequence[str], root: Path | None) -> list[str]:
    """``--data`` with known names replaced by what they mean under ``--data-root``; all else as it is.

    Without a root a path of that name is that path, and a name that is no path a ConfigError.
    """
    names = {entry.name for entry in known()}
    paths: list[str] = []
    for one in data:
        if one.lower() not in names or (root is None and Path(one).exists()):
            paths.append(one)
        elif root is None:
            raise ConfigError(
                f"{one} is a known data set: name its folder with --data-root DIR (get it {_by(find(one))})"
            )
        else:
            paths += resolve(one, root)
    return paths


def recognise(paths: Sequence[str]) -> list[str]:
    """Names of the known data sets that paths inside a store (``folder/file``) look like; several may share images."""
    if not paths:
        return []
    return [
        entry.name
        for entry in known()
        if entry.mark and sum(re.search(entry.mark, path) is not None for path in paths) >= _ENOUGH * len(paths)
    ]


def table() -> str:
    """All data sets for people; ``(?)`` marks what is common knowledge, not checked against the source."""
    blocks = []
    for entry in known():
        sure = {field: "" if field not in entry.unverified else " (?)" for field in Known.model_fields}
        what = [f"{entry.images:,} images{sure['images']}", entry.about + sure["about"]]
        what += [f"{entry.classes} classes{sure['classes']}"] if entry.classes else []
        what += [f"split {entry.split}{sure['split']}"] if entry.split else []
        blocks.append(
            f"{entry.name:14} {entry.title}, {entry.use}: {'; '.join(what)}\n"
            f"{'':14}   licence  {entry.licence}{sure['licence']}\n"
            f"{'':14}   source   {entry.source}{sure['source']}\n"
            f"{'':14}   layout   {entry.layout}{sure['layout']}\n"
            f"{'':14}   get      {entry.how}" + (f"; then {entry.then}{sure['then']}" if entry.then else "")
        )
    return "\n".join(blocks)


def _by(entry: Known) -> str:
    return entry.how if entry.by_hand else f"by {entry.how}"


def _plain(name: str) -> str:
    """A folder's name without case and punctuation."""
    return re.sub(r"[\W_]", "", name.lower())
