"""``selectivemae data``: known corpora and data sets, fetching one, and what a folder or archive holds."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from selectivemae.cli.common import Json, Overwrite, Quiet, Resume, print_json
from selectivemae.core.errors import ConfigError
from selectivemae.core.progress import ProgressLine
from selectivemae.data.pack_config import PackConfig

app = App(
    name="data",
    help="Known data sets: list them, fetch one; check what a folder or archive holds; decode it once and for all.",
    help_format="plaintext",
    help_epilogue="Example: selectivemae data check images/",
)


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """List known corpora and data sets with licence, source and layout; (?) marks what is not verified.

    Example: selectivemae data list
    """
    from selectivemae.data.catalogue import known, table

    if json:
        print_json([entry.settled() | {"how": entry.how} for entry in known()])
    else:
        print(table())


@app.command
def get(
    name: Annotated[str, Parameter(help="A name of data list")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder of data sets (what --data-root means); it comes into OUT/NAME")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a known data set, going on where an earlier call was broken off; every file is checked.

    Example: selectivemae data get opticalrs-4m --out datasets/
    """
    from selectivemae.data.catalogue import find
    from selectivemae.data.fetch import fetch

    entry = find(name)
    with ProgressLine(entry.name, quiet=quiet or json) as line:
        folder = fetch(entry, out, line.update)
    if json:
        print_json({"name": entry.name, "folder": str(folder), "then": entry.then})
        return
    then = f"; now {entry.then}" if entry.then else ""
    print(f"{folder}: {entry.title} is here and whole{then}\nlicence: {entry.licence}")
    print(f"use it with --data {entry.name} --data-root {out}")


@app.command
def pack(
    data: Annotated[list[str], Parameter(help="Folders, archives or shards of images, or known names")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder of the pack")],
    settings: Annotated[PackConfig | None, Parameter(name="*")] = None,
    data_root: Annotated[Path | None, Parameter(help="Folder of known data sets given by name")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode images once and keep their pixels, shrunk, in plain tars: training then only crops and resizes.

    Example: selectivemae data pack OpticalRS-4M.zip --size 256 --out opticalrs-256
    """
    from selectivemae.data.pack import pack as pack_all

    with ProgressLine("pack", quiet=quiet or json) as line:
        packed = pack_all(
            data,
            out,
            settings or PackConfig(),
            data_root=data_root,
            resume=resume,
            overwrite=overwrite,
            say=line.update,
        )
    if json:
        print_json(asdict(packed))
        return
    left_out = f"; {packed.dropped} cannot be decoded: {out / 'dropped.csv'}" if packed.dropped else ""
    print(f"{out}: {packed.images:,} images, {packed.bytes / 1e9:.2f} GB{left_out}\nuse it with --data {out}")


@app.command
def check(
    path: Annotated[str, Parameter(help="Folder, archive, corpus or URL")],
    /,
    *,
    sample: Annotated[int | None, Parameter(help="Look at this many images, spread evenly, instead of all")] = None,
    threads: Annotated[int, Parameter(help="Images at a time (0: one a core)")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say what a folder or archive holds and what is wrong with it; exit code 1 when something is.

    Example: selectivemae data check OpticalRS-4M.zip --sample 10000
    """
    from selectivemae.data.check import as_dict, as_text
    from selectivemae.data.check import check as look

    if sample is not None and sample < 1:
        raise ConfigError(f"--sample must be 1 or more (got {sample})")
    if threads < 0:
        raise ConfigError(f"--threads must be 0 or more (got {threads})")
    with ProgressLine("check", quiet=quiet or json) as line:
        found = look(path, sample, threads=threads, say=line.update)
    if json:
        print_json(as_dict(found))
    else:
        print(as_text(found))
    return 0 if found.ok else 1
