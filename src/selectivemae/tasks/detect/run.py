"""Fine-tuning for upright boxes."""

from selectivemae.tasks.boxes_run import DetectResult, finetune_boxes
from selectivemae.tasks.detect.config import DetectConfig


def finetune_detect(
    config: DetectConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False, command: str = ""
) -> DetectResult:
    """Fine-tune a Faster R-CNN as ``config`` says; the command ``finetune detect`` is this call.

    See :func:`selectivemae.tasks.boxes_run.finetune_boxes`.
    """
    return finetune_boxes("detect", config, resume=resume, overwrite=overwrite, quiet=quiet, command=command)
