"""Fine-tuning for upright boxes."""

from selectivemae.distributed.group import Group
from selectivemae.tasks.boxes_run import DetectResult, finetune_boxes
from selectivemae.tasks.detect.config import DetectConfig


def finetune_detect(
    config: DetectConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    group: Group | None = None,
    command: str = "",
) -> DetectResult:
    """Fine-tune a Faster R-CNN as ``config`` says; the command ``finetune detect`` is this call.

    See :func:`selectivemae.tasks.boxes_run.finetune_boxes`.
    """
    how = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
    return finetune_boxes("detect", config, **how, group=group, command=command)
