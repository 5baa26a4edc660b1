"""``selectivemae inspect``: what a folder holds, as a page or in words."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def inspect(
    things: Annotated[list[Path], Parameter(help="Run folders, checkpoints in them, or corpora")],
    /,
    *,
    text: Annotated[bool, Parameter(help="A summary on the terminal instead of a page", negative=())] = False,
) -> int:
    """Write the page of a run or a corpus, or sum it up in words; a damaged checkpoint ends with exit code 1.

    Example: selectivemae inspect runs/first
    """
    from selectivemae.reports.corpus import is_corpus, text_corpus, write_corpus_report
    from selectivemae.reports.page import run_of, text_checkpoint, text_report, write_report
    from selectivemae.reports.records import is_checkpoint

    whole = True
    for thing in things:
        if is_corpus(thing):
            print(text_corpus(thing) if text else write_corpus_report(thing))
        elif not text:
            print(write_report(run_of(thing)))
        elif is_checkpoint(thing):
            words, good = text_checkpoint(thing)
            whole = whole and good
            print(words)
        else:
            print(text_report(run_of(thing)))
    return 0 if whole else 1
