"""The program ``selectivemae``: parses, calls one function, turns what happens into an exit code.

Sub-commands are named by import path and loaded when they are called, so that ``--help`` never imports torch.
"""

import sys

from cyclopts import App, CycloptsError, Parameter

from selectivemae.core.version import __version__

# In the order of a project's life (interface.md).
COMMANDS = {
    "demo": "selectivemae.cli.demo:demo",
    "data": "selectivemae.cli.data:app",
    "curate": "selectivemae.cli.curate:app",
    "pretrain": "selectivemae.cli.pretrain:pretrain",
    "probe": "selectivemae.cli.probe:probe",
    "finetune": "selectivemae.cli.finetune:app",
    "evaluate": "selectivemae.cli.evaluate:evaluate",
    "predict": "selectivemae.cli.predict:predict",
    "embed": "selectivemae.cli.embed:embed",
    "compare": "selectivemae.cli.compare:compare",
    "export": "selectivemae.cli.export:export",
    "push": "selectivemae.cli.push:push",
    "weights": "selectivemae.cli.weights:weights",
    "inspect": "selectivemae.cli.inspect:inspect",
    "bench": "selectivemae.cli.bench:app",
}


def build_app() -> App:
    """The command line's grammar."""
    app = App(
        name="selectivemae",
        help="Pre-train, judge and fine-tune vision models on satellite and aerial imagery.\n\n"
        "Example: selectivemae pretrain --data images/ --out runs/first --minutes 30",
        version=__version__,
        default_parameter=Parameter(consume_multiple=True, negative_iterable=(), show_default=True),
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        help_format="plaintext",
    )
    for name, target in COMMANDS.items():
        app.command(target, name=name)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Run the program with ``arguments`` (default: the command line's) and return its exit code."""
    from selectivemae.cli.outcome import guarded

    return guarded(lambda: build_app()(arguments, result_action="return_value"), CycloptsError)


def entry() -> None:
    """Console entry point."""
    sys.exit(main())
