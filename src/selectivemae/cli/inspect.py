"""``selectivemae inspect``: what a thing holds, as a page or in words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from selectivemae.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from selectivemae.probing.neighbours import Neighbour

MOST_SHOWN = 1000
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")


def inspect(
    things: Annotated[list[Path], Parameter(help="Run folders, checkpoints, weight files, corpora, features")],
    /,
    *,
    text: Annotated[bool, Parameter(help="A summary on the terminal instead of a page", negative=())] = False,
    query: Annotated[str | None, Parameter(help="Search features: an image file, or the id of one of theirs")] = None,
    top: Annotated[int, Parameter(help="How many of the nearest images")] = 24,
    weights: Annotated[str | None, Parameter(help="Weights of the features, if they moved since")] = None,
    data: Annotated[list[str] | None, Parameter(help="Images of the features, if they moved since")] = None,
    out: Annotated[Path | None, Parameter(help="Sheet of the search: .html or .png (FEATURES.neighbours.html)")] = None,
) -> int:
    """Write the page of a run or a corpus, search features for the images nearest to a query, or sum things up.

    A damaged checkpoint ends with exit code 1. Weight files, and features without a query, are summed up in words.

    Example: selectivemae inspect features.parquet --query scene.jpg --out nearest.png
    """
    if query is None and (weights, data, out) != (None, None, None):
        raise ConfigError("--weights, --data and --out go with --query, the search of features")
    if not 1 <= top <= MOST_SHOWN:
        raise ConfigError(f"--top must be from 1 to {MOST_SHOWN}, got {top}")
    whole = True
    for thing in things:
        if query is not None:
            _search(thing, query, top, weights, data, out, text)
        else:
            whole = _look(thing, text) and whole
    return 0 if whole else 1


def _look(thing: Path, text: bool) -> bool:
    """Show one thing; False for a checkpoint that is damaged."""
    from selectivemae.reports.comparison import NAME as COMPARISON
    from selectivemae.reports.corpus import is_corpus, text_corpus, write_corpus_report
    from selectivemae.reports.page import run_of, text_checkpoint, text_report, write_report
    from selectivemae.reports.records import is_checkpoint

    if thing.is_file():
        print(_words_of_features(thing) if thing.suffix == ".parquet" else _words_of_weights(thing))
    elif (thing / f"{COMPARISON}.md").is_file():
        print((thing / f"{COMPARISON}.md").read_text() if text else thing / f"{COMPARISON}.html")
    elif is_corpus(thing):
        print(text_corpus(thing) if text else write_corpus_report(thing))
    elif not text:
        print(write_report(run_of(thing)))
    elif is_checkpoint(thing):
        words, good = text_checkpoint(thing)
        print(words)
        return good
    else:
        print(text_report(run_of(thing)))
    return True


def _words_of_features(path: Path) -> str:
    from selectivemae.probing.embed import open_features

    file, about = open_features(path)
    rows = [("images", f"{file.metadata.num_rows:,}")]
    rows.append(("features of each", str(file.schema_arrow.field("vector").type.list_size)))
    rows += [(k, about[k]) for k in ("weights", "architecture", "pool", "image_size", "paths") if k in about]
    rows.append(("to search", f"selectivemae inspect {path} --query IMAGE"))
    return "\n".join([f"{path}: features", *_lines(rows)])


def _words_of_weights(path: Path) -> str:
    if not path.name.endswith(WEIGHT_SUFFIXES):
        raise DataError(f"{path} is no weight file ({', '.join(WEIGHT_SUFFIXES)}) and no features (.parquet)")
    from selectivemae.weights.describe import describe_weights

    return "\n".join([f"{path}: weights", *_lines(describe_weights(path))])


def _search(
    path: Path, query: str, top: int, weights: str | None, data: list[str] | None, out: Path | None, text: bool
) -> None:
    """Print the images nearest to a query, and write their sheet unless ``text``."""
    import json

    from selectivemae.probing.embed import open_features
    from selectivemae.probing.neighbours import describe_image, nearest, vector_of

    out = out or path.with_name(path.name + ".neighbours.html")
    if out.suffix not in (".html", ".png"):
        raise ConfigError(f"--out must name an .html or a .png file, got {out}")
    _, about = open_features(path)
    if Path(query).is_file():
        from selectivemae.engine.precision import choose_device
        from selectivemae.weights.load import load_encoder

        encoder = load_encoder(weights or about.get("weights", ""))
        vector = describe_image(Path(query), encoder, about, choose_device("auto"))
    else:
        vector = vector_of(path, query)
        if vector is None:
            raise DataError(f"the query {query} is neither an image file nor an id of {path}")
    found = nearest(path, vector, top)
    print("\n".join(f"{one.similarity:.4f}  {one.id}" for one in found))
    if not text:
        _write_sheet(out, query, found, data or json.loads(about.get("paths", "[]")))
        print(out)


def _write_sheet(out: Path, query: str, found: "list[Neighbour]", data: list[str]) -> None:
    from selectivemae.core.files import atomic_write
    from selectivemae.data.stores import open_stores
    from selectivemae.probing.neighbours import place_of
    from selectivemae.reports.neighbours import Shown, as_html, as_png

    if not data or not all(Path(path).exists() or "://" in path for path in data):
        raise DataError(
            f"the images of the features are not at {', '.join(data) or 'a known place'}: name them by --data"
        )
    store = open_stores(data)

    def bytes_of(name: str) -> bytes | None:
        place = place_of(store, name)
        return None if place is None else store[place]

    asked = Path(query).read_bytes() if Path(query).is_file() else bytes_of(query)
    shown = [Shown(query, "query", asked)]
    shown += [Shown(one.id, f"{one.similarity:.4f}", bytes_of(one.id)) for one in found]
    atomic_write(out, as_png(shown) if out.suffix == ".png" else as_html(f"Nearest to {query}", shown))


def _lines(rows: list[tuple[str, str]]) -> list[str]:
    wide = max(len(name) for name, _ in rows)
    return [f"  {name:{wide}}  {value}" for name, value in rows]
