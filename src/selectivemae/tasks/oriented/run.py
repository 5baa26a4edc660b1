"""Fine-tuning for oriented boxes."""

from selectivemae.tasks.boxes_run import DetectResult, finetune_boxes
from selectivemae.tasks.oriented.config import OrientedConfig


def finetune_oriented(
    config: OrientedConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False, command: str = ""
) -> DetectResult:
    """Fine-tune an Oriented R-CNN as ``config`` says; the command ``finetune oriented`` is this call.

    See :func:`selectivemae.tasks.boxes_run.finetune_boxes`.
    """
    return finetune_boxes("oriented", config, resume=resume, overwrite=overwrite, quiet=quiet, command=command)
