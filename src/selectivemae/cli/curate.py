"""``selectivemae curate``: piles of archives -> a clean corpus, and its upkeep."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from selectivemae.cli.common import ConfigFile, Json, Quiet, Verbose, print_json, set_up_logging, settings_from
from selectivemae.core.errors import ConfigError
from selectivemae.core.progress import duration
from selectivemae.curation.config import CurateConfig

if TYPE_CHECKING:
    from selectivemae.curation.run import CurateResult

Given = Annotated[CurateConfig | None, Parameter(name="*")]
Corpus = Annotated[Path, Parameter(help="Folder of a corpus")]

app = App(
    name="curate",
    help="Make a clean corpus from piles of archives, and look after it.",
    help_epilogue="Example: selectivemae curate run dota.zip aid/ --out corpus",
)


@app.command
def run(
    *sources: str,
    settings: Given = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Continue the run in --out", negative=())] = False,
    overwrite: Annotated[bool, Parameter(help="Replace the corpus in --out", negative=())] = False,
    dry_run: Annotated[bool, Parameter(help="Say what would be done, and stop", negative=())] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Exclude, cut, de-duplicate and pack SOURCES into a new corpus.

    Example: selectivemae curate run dota.zip aid/ --out corpus --against test_sets/
    """
    set_up_logging(quiet or json, verbose)
    settled = _settled(sources, settings, config)
    if dry_run:
        return _show_plan(settled, json)
    from selectivemae.curation.run import curate

    return _show_result(curate(settled, resume=resume, overwrite=overwrite, quiet=quiet or json), settled, json)


@app.command
def plan(
    *sources: str, settings: Given = None, config: ConfigFile = None, json: Json = False, verbose: Verbose = False
) -> int:
    """Count what SOURCES hold, and what a run would cost, without touching a pixel.

    Example: selectivemae curate plan sources.yaml
    """
    set_up_logging(json, verbose)
    return _show_plan(_settled(sources, settings, config), json)


@app.command
def add(
    *sources: str,
    settings: Given = None,
    config: ConfigFile = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Add SOURCES to the corpus in --out as a new generation; nothing old is read again or changed.

    Example: selectivemae curate add more.zip --out corpus
    """
    set_up_logging(quiet or json, verbose)
    settled = _settled(sources, settings, config)
    from selectivemae.curation.run import add as add_generation

    return _show_result(add_generation(settled, quiet=quiet or json), settled, json)


@app.command
def verify(
    corpus: Corpus,
    /,
    *,
    deep: Annotated[bool, Parameter(help="Decode every image as well", negative=())] = False,
    json: Json = False,
) -> int:
    """Check sums, shards, indexes and manifest of a corpus against each other; exit code 1 if anything is wrong.

    Example: selectivemae curate verify corpus --deep
    """
    from selectivemae.curation.corpus import verify as check

    found = check(corpus, deep=deep)
    if json:
        print_json({"corpus": str(corpus), "findings": [asdict(finding) for finding in found]})
    else:
        print("\n".join(f"{finding.file}: {finding.problem}" for finding in found) or f"{corpus}: whole")
    return 1 if found else 0


@app.command
def audit(*sources: str, settings: Given = None, config: ConfigFile = None, json: Json = False) -> int:
    """Look for twins of evaluation images (--against) in any data; exit code 1 if there are any.

    Example: selectivemae curate audit corpus --against aid_test/
    """
    settled = _settled(sources, settings, config)
    from selectivemae.curation.run import workers
    from selectivemae.curation.upkeep import audit as look

    result = look(settled, workers(settled))
    if json:
        print_json(asdict(result))
    else:
        for name, images in result.images.items():
            print(f"{name}: {result.twins.get(name, 0)} of {images} images have a twin")
        for pair in result.pairs:
            print(f"  {pair['image']} = {pair['twin']} ({pair['d64']} bits, correlation {pair['ncc']:.2f})")
    return 1 if result.pairs else 0


@app.command
def tune(
    corpus: Corpus,
    /,
    *,
    rule: Annotated[str, Parameter(help="uniform, nodata, saturated, noise, low_info, cloud or blur")],
    drop: Annotated[float, Parameter(help="Threshold to try")],
    show: Annotated[int, Parameter(help="Images to list on each side")] = 25,
    json: Json = False,
) -> None:
    """Count what another threshold would change, from the stored statistics.

    Example: selectivemae curate tune corpus --rule cloud --drop 0.7
    """
    from selectivemae.curation.upkeep import tune as count

    result = count(corpus, rule, drop, show)
    if json:
        print_json(asdict(result))
        return
    print(f"{rule} at {drop:g}: {result.would_go} kept images would go, {result.would_return} would come back")
    for title, rows in (("kept", result.kept_nearest), ("dropped", result.dropped_nearest)):
        for name, value in rows:
            print(f"  {title}  {result.statistic} {value:.4g}  {name}")


@app.command
def remove(
    corpus: Corpus,
    /,
    *,
    ids: Annotated[Path | None, Parameter(help="Text file with a key of the manifest a line")] = None,
    source: Annotated[str | None, Parameter(help="Everything of this source")] = None,
    json: Json = False,
) -> None:
    """Take images out of a corpus: nothing reads them any more, and curate compact takes their bytes away.

    Example: selectivemae curate remove corpus --source dota
    """
    from selectivemae.curation.removal import remove as take_out
    from selectivemae.reports.corpus import write_corpus_report

    if (ids is None) == (source is None):
        raise ConfigError("give either --ids FILE or --source NAME")
    try:
        keys = set(ids.read_text().split()) if ids else set()
    except OSError as e:
        raise ConfigError(f"cannot read {ids}: {e.strerror}") from e
    count = take_out(corpus, keys, source)
    write_corpus_report(corpus)  # the pages hold pictures too
    if json:
        print_json({"corpus": str(corpus), "removed": count})
    else:
        print(f"{corpus}: {count} images removed")


@app.command
def compact(corpus: Corpus, /, *, json: Json = False) -> None:
    """Write the shards that hold removed images anew without them, so that their bytes are gone.

    Example: selectivemae curate compact corpus
    """
    from selectivemae.curation.removal import compact as write_anew
    from selectivemae.reports.corpus import write_corpus_report

    result = write_anew(corpus)
    write_corpus_report(corpus)
    if json:
        print_json({"corpus": str(corpus)} | asdict(result))
        return
    shards = "1 shard" if result.rewritten == 1 else f"{result.rewritten} shards"
    print(f"{corpus}: {shards} written anew, {result.deleted} deleted, {result.bytes_saved / 1e6:,.1f} MB saved")


@app.command
def rebuild(
    recipe: Annotated[Path, Parameter(help="A corpus, or one without its shards")],
    /,
    *,
    data: Annotated[list[Path], Parameter(help="Folders that hold the sources' archives and folders, by their names")],
    out: Annotated[Path, Parameter(help="Folder of the new corpus")],
    workers: Annotated[int | None, Parameter(help="Worker processes (default: one a core)")] = None,
    resume: Annotated[bool, Parameter(help="Continue in --out", negative=())] = False,
    overwrite: Annotated[bool, Parameter(help="Replace the corpus in --out", negative=())] = False,
    json: Json = False,
) -> int:
    """Make a corpus again from its manifest and the original archives; exit code 1 if its digest differs.

    Example: selectivemae curate rebuild recipe --data /archives --out corpus
    """
    from selectivemae.curation.rebuild import rebuild as make_again
    from selectivemae.curation.run import workers as as_many
    from selectivemae.reports.corpus import write_corpus_report

    count = workers or as_many(CurateConfig())
    result = make_again(recipe, data, out, count, resume=resume, overwrite=overwrite)
    write_corpus_report(out)
    if json:
        print_json(asdict(result))
    else:
        verdict = "as the recipe says" if result.same else "NOT the recipe's"
        anew = f", {result.encoded_anew} encoded to other bytes" if result.encoded_anew else ""
        print(f"{out}: {result.samples:,} images in {result.shards} shards{anew}\ndigest: {result.digest} ({verdict})")
    return 0 if result.same else 1


def _settled(sources: tuple[str, ...], settings: CurateConfig | None, config: Path | None) -> CurateConfig:
    settled = settings_from(CurateConfig, "curate", settings, None, config)
    return settled.model_copy(update={"sources": [*settled.sources, *sources]})


def _show_plan(settled: CurateConfig, json: bool) -> int:
    from selectivemae.curation.run import workers
    from selectivemae.curation.upkeep import plan as look_ahead

    result = look_ahead(settled, workers(settled))
    if json:
        print_json(asdict(result))
        return 0
    for s in result.sources:
        passed = ", ".join(f"{count} {reason}" for reason, count in sorted(s.passed_over.items()))
        role = " (evaluation)" if s.role == "eval" else ""
        print(
            f"{s.name}{role}: {s.files:,} files, {s.bytes / 1e6:,.1f} MB in {s.containers} containers, "
            f"licence {s.licence}{'' if s.redistribute else ', not to be passed on'}"
            + (f"; passed over: {passed}" if passed else "")
        )
    print(
        f"about {duration(result.hours * 3600)} with {workers(settled)} workers, "
        f"{result.disk_bytes / 1e9:.2f} GB of disk at the peak"
    )
    return 0


def _show_result(result: "CurateResult", settled: CurateConfig, json: bool) -> int:
    from selectivemae.reports.corpus import write_corpus_report

    page = write_corpus_report(result.out)
    review = result.out / "review.html"
    failed = result.quarantine_share > settled.max_quarantine
    if json:
        print_json(asdict(result))
    else:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.dropped.items()))
        print(
            f"{result.out}: generation {result.generation}, {result.files:,} files, {result.kept:,} images kept in "
            f"{result.shards} shards ({result.bytes / 1e6:,.1f} MB) in {duration(result.seconds)}\n"
            f"left out: {reasons or 'nothing'}\ndigest: {result.digest}"
        )
        print(f"report: {page}" + (f"\npairs in doubt: {review}" if review.exists() else ""))
        for entry in result.quarantined:
            print(f"quarantined: member {entry.member} of {entry.task} ({entry.reason})")
    if failed:
        dead = f"{len(result.quarantined)} of {result.files} files killed their worker"
        allowed = f"more than --max-quarantine {settled.max_quarantine:g} allows"
        print(f"selectivemae: {dead}, {allowed}; the corpus is whole without them", file=sys.stderr)
    return 3 if failed else 0
