"""The pairs that a person should look at: those whose verdict would turn with the least change.

    g0001/review/part-00000.parquet    figures, names and two small pictures of each pair (tables.REVIEW)

Made while the images that go are still in the spool; ``selectivemae inspect`` makes a page of it.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from selectivemae.curation import tables
from selectivemae.curation.decide import Decision, Old
from selectivemae.curation.hashes import orient
from selectivemae.curation.spool import Spool, places
from selectivemae.curation.tiles import key

SIDE = 224
_QUALITY = 80


def doubtful(spool: Spool, decision: Decision, old: Old | None, count: int) -> pa.Table:
    """The ``count`` most doubtful pairs that rest on their figures, as rows of ``tables.REVIEW``."""
    parts = []
    for kind, pairs in (("copies", decision.pairs), ("evaluation", decision.overlap)):
        open_ = pairs.filter(pa.array([word == "figures" for word in pairs.column("basis").to_pylist()], pa.bool_()))
        parts += [row | {"kind": kind} for row in open_.to_pylist()]
    parts.sort(key=lambda row: (row["doubt"], row["left"], row["right"]))
    chosen = parts[:count]
    known = _Known(spool, old, {row[side] for row in chosen for side in ("left", "right")})
    dropped = set(decision.dropped.column("id").to_pylist())
    return tables.table([_row(pair, known, dropped) for pair in chosen], tables.REVIEW)


class _Known:
    """Names and pictures of some tiles, by id."""

    def __init__(self, spool: Spool, old: Old | None, ids: set[bytes]) -> None:
        self.spool = spool
        self.old = old
        self.new = places(spool.rows.column("id"), ids)
        self.before = places(old.ids, ids) if old is not None else {}

    def names(self, identity: bytes) -> tuple[str, str]:
        """The key of a tile, and where it comes from in words."""
        if identity not in self.new:
            assert self.old is not None
            text = self.old.keys[self.before[identity]].as_py()
            return text, text
        row = self._row(identity)
        place = f" at {row['win_x']},{row['win_y']}" if row["win_x"] or row["win_y"] else ""
        return key(row["source"], identity), f"{row['source']}/{row['member']}{place}"

    def picture(self, identity: bytes) -> NDArray[np.uint8]:
        """The tile's pixels; of an evaluation image its grey thumb."""
        if identity in self.new:
            return self.spool.picture(self.new[identity])
        assert self.old is not None
        return self.old.picture(self.before[identity])

    def _row(self, identity: bytes) -> dict[str, Any]:
        return self.spool.rows.slice(self.new[identity], 1).to_pylist()[0]


def _row(pair: dict[str, Any], known: _Known, dropped: set[bytes]) -> dict[str, Any]:
    left_key, left_name = known.names(pair["left"])
    right_key, right_name = known.names(pair["right"])
    gone = sum(pair[side] in dropped for side in ("left", "right"))
    outcome = "both stay" if not gone else "one goes" if gone == 1 else "both go"
    if pair["kind"] == "evaluation":
        outcome = "goes: in an evaluation set" if gone else "stays"
    return {name: pair[name] for name in tables.PAIRS.names} | {
        "left_key": left_key,
        "right_key": right_key,
        "left_name": left_name,
        "right_name": right_name,
        "outcome": outcome,
        "left_image": _small(orient(known.picture(pair["left"]).transpose(2, 0, 1), pair["orient"]).transpose(1, 2, 0)),
        "right_image": _small(known.picture(pair["right"])),
    }


def _small(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def forget(generation: Path, ids: set[bytes]) -> None:
    """Take removed tiles and what was alike to them out of the pictures of a generation."""
    for name, schema, columns in (
        ("review", tables.REVIEW, ("left", "right")),
        ("sheets", tables.SHEET, ("id", "kept_id")),
    ):
        for path in sorted((generation / name).glob("part-*.parquet")):
            rows = tables.read([path], schema)
            stays = [not {a, b} & ids for a, b in zip(*(rows.column(c).to_pylist() for c in columns), strict=True)]
            if not all(stays):
                tables.write(path, tables.normal(rows.filter(pa.array(stays, pa.bool_()))))
