"""The card of a corpus (README.md with the front matter of the Hugging Face hub) and its licences."""

from collections import Counter
from typing import Any

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_SIZES += ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))


def readme(corpus: dict[str, Any]) -> str:
    """The card, from ``corpus.json``."""
    sources = _sources(corpus)
    licences = {s["licence"]["id"] for s in sources.values()}
    one = next(iter(licences)) if len(licences) == 1 and "unknown" not in licences else ""
    front = [
        "---",
        f"pretty_name: {corpus['name']}",
        f"license: {one}" if one else "license: other\nlicense_name: mixed\nlicense_link: LICENSES.md",
        "size_categories:",
        f"- {_size(corpus['samples'])}",
        "task_categories:",
        "- image-feature-extraction",
        "tags:",
        "- remote-sensing",
        "- webdataset",
        "- selectivemae",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        '    path: "g*/shards/*/*.tar"',
        "---",
    ]
    rows = [
        f"| {name} | {s['files']:,} | {s['kept']:,} | {sum(s['dropped'].values()):,} | {s['licence']['id']} |"
        for name, s in sources.items()
    ]
    reasons: Counter[str] = Counter()
    for source in sources.values():
        reasons.update(source["dropped"])
    clean = all(entry["decontaminated"] for entry in corpus["generations"])
    body = [
        f"# {corpus['name']}",
        "",
        f"{corpus['samples']:,} overhead images in WebDataset shards, made with selectivemae {corpus['version']}.",
        "",
        "| source | files | kept | dropped | licence |",
        "| --- | ---: | ---: | ---: | --- |",
        *rows,
        "",
        "| left out for | images |",
        "| --- | ---: |",
        *(f"| {reason} | {count:,} |" for reason, count in sorted(reasons.items())),
        "",
        "Near copies are found by a 64-bit hash under the 8 orientations and confirmed by a 256-bit hash and the",
        "correlation of thumbs; every image that was left out stands in `g*/dropped` with its reason.",
        "",
        f"Compared with evaluation sets: {'yes' if clean else 'no, or not in every generation'}.",
        "",
        f"Digest: `{corpus['digest']}`",
        "",
    ]
    return "\n".join([*front, "", *body])


def licences(corpus: dict[str, Any]) -> str:
    """The terms of every source, the most restrictive first."""
    sources = sorted(_sources(corpus).items(), key=lambda item: (item[1]["licence"]["redistribute"], item[0]))
    lines = [
        "# Licences of the sources",
        "",
        "| source | licence | may be passed on | text |",
        "| --- | --- | --- | --- |",
    ]
    for name, source in sources:
        terms = source["licence"]
        lines.append(f"| {name} | {terms['id']} | {'yes' if terms['redistribute'] else 'no'} | {terms['url']} |")
    return "\n".join([*lines, ""])


def _sources(corpus: dict[str, Any]) -> dict[str, Any]:
    """Training sources of all generations, with what was kept and dropped, summed."""
    out: dict[str, Any] = {}
    for entry in corpus["generations"]:
        for name, funnel in entry["sources"].items():
            if funnel["role"] != "train":
                continue
            total = out.setdefault(name, {"files": 0, "kept": 0, "dropped": Counter()})
            total["files"] += funnel["files"]
            total["kept"] += funnel.get("kept", 0)
            total["dropped"].update(funnel["dropped"])
            total["licence"] = entry["licences"][name]
    return dict(sorted(out.items()))


def _size(samples: int) -> str:
    return next((label for limit, label in _SIZES if samples < limit), "n>100M")
