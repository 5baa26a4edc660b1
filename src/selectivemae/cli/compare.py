"""``selectivemae compare``: own weights under the published table."""

import logging
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Quiet, Verbose, print_json, set_up_logging, settings_from
from selectivemae.cli.compare_tasks import CompareConfig

log = logging.getLogger("selectivemae")


def compare(
    *,
    settings: Annotated[CompareConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Go on with what is in --out", negative=())] = False,
    overwrite: Annotated[bool, Parameter(help="Replace what is in --out", negative=())] = False,
    dry_run: Annotated[bool, Parameter(help="Say what would be run on which data, and stop", negative=())] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge weights on the tasks of the published table whose data are there, and print them under its rows.

    Tasks: aid-28, aid-55, resisc-19, resisc-28, dior, dior-r, loveda, spacenet and ucmerced-55, all fine-tuned;
    aid-probe, resisc-probe, ucmerced-probe and eurosat-probe.

    Example: selectivemae compare --weights ours=runs/first --tasks aid-28 resisc-19 --data datasets/
    """
    set_up_logging(quiet or json, verbose)
    from selectivemae.cli.compare_tasks import Job, folder_name, named_weights, plan
    from selectivemae.core.config import write_settled
    from selectivemae.core.files import locked, prepare_output
    from selectivemae.data.labels import listed
    from selectivemae.reports.comparison import NAME, as_markdown, write_comparison

    settled = settings_from(CompareConfig, "compare", settings, None, config)
    ready, absent = plan(settled)
    named = named_weights(settled)
    if settled.tasks:
        for line in absent:
            log.warning("left out %s", line)
    elif absent:
        log.info("no data under %s for %s", settled.data, listed([line.partition(":")[0] for line in absent]))
    if dry_run:
        todo = [{"weights": name, "task": task.name, "data": str(data)} for task, data in ready for name in named]
        if json:
            print_json(todo)
        else:
            print("\n".join(f"{job['weights']}: {job['task']} on {job['data']}" for job in todo))
        return
    out = settled.out
    prepare_output(out, resume=resume, overwrite=overwrite, marker="config.yaml")
    findings = []
    with locked(out):
        write_settled(out / "config.yaml", settled.settled(), {})
        for name, weights in named.items():
            for task, data in ready:
                log.info("%s: %s on %s", name, task.name, data)
                folder = out / folder_name(name) / task.name
                job = Job(name, weights, task.name, task.dataset, data, folder, settled, resume, quiet or json)
                findings += task.run(job)
                write_comparison(out, findings, absent)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print(as_markdown(findings, absent))
        print(f"{out}: {NAME}.md, {NAME}.csv, {NAME}.html")
