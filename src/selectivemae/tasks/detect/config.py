"""Settings of ``finetune detect``."""

from selectivemae.tasks.boxes_config import BoxConfig


class DetectConfig(BoxConfig):
    """Everything that decides a fine-tuning for upright boxes; the defaults are the published ones for DIOR."""
