"""What people decided about pairs of images: a file with a JSON object a line, as the review page gives it.

    {"left": "aid-0123…", "right": "dota-4567…", "decision": "same"}

``same`` makes the two one picture whatever the figures say, so that one of them goes; ``different`` and ``keep_both``
keep both. A run with the same sources, settings and decisions gives the same corpus.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from selectivemae.core.errors import ConfigError
from selectivemae.core.suggest import did_you_mean
from selectivemae.data.stores.shards import id_text

Word = Literal["same", "different", "keep_both"]
WORDS: tuple[str, ...] = get_args(Word)


@dataclass(frozen=True)
class Decisions:
    """Pairs of tile ids (the smaller first) with a word each, and the keys by which they were named."""

    words: dict[tuple[bytes, bytes], str]
    keys: dict[bytes, str]

    def __len__(self) -> int:
        return len(self.words)

    def text(self) -> str:
        """The file in one form: sorted, each pair once."""
        lines = [
            json.dumps({"left": self.keys[a], "right": self.keys[b], "decision": word})
            for (a, b), word in sorted(self.words.items())
        ]
        return "".join(line + "\n" for line in lines)


NONE = Decisions({}, {})


def read_decisions(path: Path) -> Decisions:
    """Read a file of decisions. ConfigError names the line of what is none, or contradicts an earlier one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {path}: {getattr(e, 'strerror', None) or 'it is no text'}") from e
    words: dict[tuple[bytes, bytes], str] = {}
    keys: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        left, right, word = _parsed(line, where)
        pair = (_identity(left, where), _identity(right, where))
        if pair[0] == pair[1]:
            raise ConfigError(f"{where}: {left} is decided against itself")
        keys |= dict(zip(pair, (left, right), strict=True))
        pair = (min(pair), max(pair))
        if words.setdefault(pair, word) != word:
            raise ConfigError(
                f"{where}: {left} and {right} were {words[pair]!r} on an earlier line; keep one of the two"
            )
    return Decisions(words, keys)


def _parsed(line: str, where: str) -> tuple[str, str, str]:
    try:
        entry = json.loads(line)
        left, right, word = entry["left"], entry["right"], entry["decision"]
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{where}: is no object with left, right and decision") from e
    if word not in WORDS:
        raise ConfigError(f"{where}: unknown decision {word!r}{did_you_mean(str(word), list(WORDS))}")
    return left, right, word


def _identity(key: str, where: str) -> bytes:
    """The 16 bytes of the tile that a key of the manifest names."""
    try:
        identity = base64.b32hexdecode(str(key).rpartition("-")[2].upper() + "======")
    except ValueError:
        identity = b""
    if len(identity) != 16 or not str(key).endswith("-" + id_text(identity)):
        raise ConfigError(f"{where}: {key!r} is no key of a manifest (SOURCE-ID)")
    return identity
