"""``selectivemae finetune TASK``: weights -> task model; each task's command is loaded when it is called."""

from cyclopts import App

TASKS = ("classify", "detect", "oriented", "segment")

app = App(name="finetune", help="Fine-tune weights for a task.", help_format="plaintext")
for task in TASKS:
    app.command(f"selectivemae.cli.finetune_{task}:{task}", name=task)
