"""Fine-tuning for oriented boxes."""

from selectivemae.distributed.group import Group
from selectivemae.tasks.boxes_run import DetectResult, finetune_boxes
from selectivemae.tasks.oriented.config import OrientedConfig


def finetune_oriented(
    config: OrientedConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    group: Group | None = None,
    command: str = "",
) -> DetectResult:
    """Fine-tune an Oriented R-CNN as ``config`` says; the command ``finetune oriented`` is this call.

    See :func:`selectivemae.tasks.boxes_run.finetune_boxes`.
    """
    how = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
    return finetune_boxes("oriented", config, **how, group=group, command=command)
