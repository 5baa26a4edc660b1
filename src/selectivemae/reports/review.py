"""The page of doubtful pairs: look at each, decide by a key, and download the decisions for the next run.

CORPUS/
  review.html            one self-contained page; nothing is fetched and nothing sent
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selectivemae.core.errors import DataError
from selectivemae.core.files import atomic_write
from selectivemae.reports.html import data_uri, fill

_FIGURES = ["orient", "d64", "d256", "ncc", "doubt", "outcome"]
_SIDES = ["key", "name", "image"]
ORIENTATIONS = (
    "as it is",
    "mirrored",
    "upside down, mirrored",
    "turned by 180°",
    "mirrored on the diagonal",
    "turned clockwise",
    "turned anticlockwise",
    "mirrored on the other diagonal",
)


def write_review(folder: Path) -> Path | None:
    """Write ``review.html`` into a corpus and give its path; None where no pair is in doubt. DataError for damage."""
    pairs = doubtful_pairs(folder)
    path = folder / "review.html"
    if not pairs:
        path.unlink(missing_ok=True)
        return None
    page = fill("review.html", name=folder.resolve().name, pairs=pairs)
    atomic_write(path, page)
    return path


def doubtful_pairs(folder: Path) -> list[dict[str, Any]]:
    """The pairs kept for review in all generations, the most doubtful first; pictures as data addresses."""
    columns = [*_FIGURES, *(f"{side}_{name}" for side in ("left", "right") for name in _SIDES)]
    rows: list[dict[str, Any]] = []
    try:
        for path in sorted(folder.glob("g*/review/part-*.parquet")):
            rows += pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as e:
        raise DataError(f"{folder} is no whole corpus: {e}; check it with curate verify") from e
    for row in rows:
        for side in ("left", "right"):
            row[f"{side}_image"] = data_uri(row[f"{side}_image"], "jpeg")
        row["turn"] = ORIENTATIONS[row["orient"]]
    return sorted(rows, key=lambda row: (row["doubt"], row["left_key"], row["right_key"]))
