"""Every folder of real imagery as a source: all files accounted for, odd files judged, known copies joined.

    python benchmarks/curate_real.py --data ../shared/data [--workers 2] [--only dedup_cases odd_inputs]

Writes results/curate_real.md: kept + dropped = seen for each source, recall of ``dedup_cases`` for each kind of copy,
odd inputs judged otherwise than their manifest says, and the joins inside ``aid``.
"""

import argparse
import csv
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from _table import markdown, write
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.hashes import content_id
from selectivemae.curation.run import curate
from selectivemae.data.decode import decode
from selectivemae.data.stores import open_store

IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2"}
Rows = list[dict]


def tables(corpus: Path, name: str) -> Rows:
    """All rows of a table of a corpus."""
    return [row for path in sorted(corpus.glob(f"g*/{name}/*.parquet")) for row in pq.read_table(path).to_pylist()]


def curated(sources: list[Path], out: Path, workers: int) -> tuple[Rows, Rows]:
    """Manifest and dropped of a new corpus."""
    curate(
        CurateConfig(sources=[str(path) for path in sources], out=out, workers=workers, max_quarantine=1), quiet=True
    )
    return tables(out, "manifest"), tables(out, "dropped")


def accounted(source: Path, kept: Rows, dropped: Rows) -> list[object]:
    """Source, files seen, kept, dropped, in neither table, in the tables but not seen."""
    store = open_store(source)
    prefix = f"{source.name}/"
    seen = {store.id(i).removeprefix(prefix) for i in range(len(store))} | {member for member, _ in store.skipped}
    here, gone = {r["member"] for r in kept}, {r["member"] for r in dropped}
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(r["reason"] for r in dropped).items()))
    return [
        source.name,
        len(seen),
        len(here),
        len(gone - here),
        len(seen - here - gone),
        len((here | gone) - seen),
        why,
    ]


def dedup(folder: Path, out: Path, workers: int) -> list[list[object]]:
    """Kind, copies, confirmed as a pair with the base, in one group with it; and groups of different bases."""
    kept, dropped = curated([folder], out, workers)
    ids = {row["member"]: row["id"] for row in [*kept, *dropped]}
    direct = {frozenset((p["left"], p["right"])) for p in tables(out, "pairs") if p["confirmed"]}
    compared = {identity for pair in direct for identity in pair}
    equal: dict[bytes, list[bytes]] = {}  # of pictures that are equal one is compared with the others
    for member, identity in ids.items():
        if Path(member).suffix in IMAGES:
            equal.setdefault(content_id(decode((folder / member).read_bytes())), []).append(identity)
    leader = {i: next((c for c in same if c in compared), same[0]) for same in equal.values() for i in same}
    group = {identity: leader.get(identity, identity) for identity in ids.values()}
    for pair in direct:
        old, new = (group[identity] for identity in sorted(pair))
        group = {identity: new if place == old else place for identity, place in group.items()}
    kinds: dict[str, list[tuple[bool, bool]]] = {}
    for row in csv.DictReader((folder / "pairs.csv").open()):
        ends = [ids[row["base"]], ids[row["variant"]]]
        heads = frozenset(leader.get(end, end) for end in ends)
        found = len(heads) == 1 or heads in direct
        kinds.setdefault(row["kind"], []).append((found, group[ends[0]] == group[ends[1]]))
    out_rows: list[list[object]] = [
        [kind, len(found), *(f"{sum(column) / len(found):.3f}" for column in zip(*found, strict=True))]
        for kind, found in kinds.items()
    ]
    bases = [group[identity] for member, identity in ids.items() if member.startswith("bases/")]
    return [*out_rows, ["groups of different bases", "", "", len(bases) - len(set(bases))]]


def odd(folder: Path, kept: Rows, dropped: Rows) -> list[list[object]]:
    """File, expected, found, firm: where the judgement differs from the manifest's."""
    here, why = {row["member"] for row in kept}, {row["member"]: row["reason"] for row in dropped}
    out: list[list[object]] = []
    for row in csv.DictReader((folder / "manifest.csv").open()):
        if not (folder / row["file"]).exists():
            continue
        found = "ok" if row["file"] in here else "drop"
        if found != row["expect"]:
            out.append([row["file"], row["expect"], f"{found} {why.get(row['file'], '')}".strip(), row["firm"]])
    return out


def main() -> None:
    """Curate each source by itself and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    found = (p for p in sorted(given.data.iterdir()) if p.is_dir() and any(f.suffix in IMAGES for f in p.rglob("*")))
    sources = [p for p in found if not given.only or p.name in given.only]
    counts, judged, copies, joins = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for source in sources:
            kept, dropped = curated([source], Path(scratch) / source.name, given.workers)
            counts.append(accounted(source, kept, dropped))
            if source.name == "odd_inputs":
                judged = odd(source, kept, dropped)
            elif source.name == "dedup_cases":
                copies = dedup(source, Path(scratch) / "copies", given.workers)
            elif source.name == "aid":
                name = {row["id"]: row["member"] for row in kept}
                near = [row for row in dropped if row["kept_id"] in name]
                joins = [[r["member"], name[r["kept_id"]], r["reason"], r["d256"], r["ncc"]] for r in near]
    write(
        "curate_real",
        "Curating real imagery",
        "benchmarks/curate_real.py",
        markdown(["source", "seen", "kept", "dropped", "lost", "unknown", "reasons"], counts),
        "Recall of known copies (dedup_cases), by a confirmed pair with the base, and by the group of confirmed pairs:",
        markdown(["kind", "copies", "with the base", "in its group"], copies),
        "Odd inputs judged otherwise than their manifest says:",
        markdown(["file", "expected", "found", "firm"], judged),
        "Joins inside aid:",
        markdown(["left out", "kept", "reason", "bits of 256", "correlation"], joins),
    )


if __name__ == "__main__":
    main()
