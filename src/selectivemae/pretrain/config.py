"""Settings of ``pretrain``."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from selectivemae.core.config import Settings

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Compile = Literal["off", "on", "graphs"]


# What a recipe for one method says that means nothing, or something else, for the other.
OF_THE_METHOD = (
    "mask_ratio", "reconstruction_ratio", "decoder_depth", "self_attention", "lr_scale_by_tokens", "richness",
    "target_richness", "richness_mode", "temperature", "order", "phase_boundaries",
)  # fmt: skip


class PretrainConfig(Settings):
    """Everything that decides a pre-training run."""

    alternatives = ("epochs", "samples_seen", "minutes")

    data: list[str] = Field(default=[], description="Folders, archives or shards of images; several may be given")
    data_root: Path | None = Field(default=None, description="Folder of known data sets that --data names (data list)")
    out: Path | None = Field(default=None, description="Folder of the run")
    # model
    model: str = Field(default="vit_tiny_patch16", description="vit_tiny|small|base|large|huge_patchP")
    method: Literal["selectivemae", "mae"] = Field(default="selectivemae", description="selectivemae, or mae")
    image_size: Count = Field(default=128, description="Side of the square crops in pixels")
    patch_size: Count | None = Field(default=None, description="Side of a patch, instead of the model name's")
    channels: Count = Field(default=3, description="Channels of the images that the model sees")
    decoder_depth: Count | None = Field(default=None, description="Blocks of the decoder (selectivemae 12, mae 8)")
    self_attention: bool = Field(default=False, description="Self-attention among queries in SelectiveMAE's decoder")
    norm_pix: bool = Field(default=True, description="Rebuild patches normalised by their own mean and deviation")
    residual_init: Literal["zero", "xavier"] = Field(
        default="zero", description="Fresh last maps of residual branches: zero, or xavier as published"
    )
    init: str | None = Field(default=None, description="Weights to begin with (any MAE-style file)")
    # selection
    mask_ratio: Fraction | None = Field(default=None, description="Share not seen (selectivemae 0.85, mae 0.75)")
    reconstruction_ratio: Fraction | None = Field(default=None, description="Share rebuilt (selectivemae 0.25)")
    richness: Literal["uniform", "hog", "entropy"] = Field(default="uniform", description="What makes a patch rich")
    target_richness: Literal["uniform", "hog", "entropy"] | None = Field(
        default=None, description="The same for the rebuilt patches, where it differs"
    )
    richness_mode: Literal["sample", "topk"] = Field(default="sample", description="Draw by richness, or the richest")
    temperature: Positive = Field(default=0.5, description="Of drawing: lower is closer to topk")
    order: str = Field(default="random", description="Phases of expansion: random, near-far-random ...")
    phase_boundaries: tuple[float, ...] | None = Field(
        default=None, description="Begin and end of each ramp between phases, as shares of training"
    )
    early_sizes: tuple[Count, ...] = Field(
        default=(), description="Smaller image sizes to begin with, in turn, each for an equal part of the early share"
    )
    early_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Share of training after which images have their full size (with --early-sizes)"
    )
    # length and optimisation
    epochs: Positive | None = Field(default=None, description="Length in passes over the data (100)")
    samples_seen: Count | None = Field(default=None, description="Length in images instead")
    minutes: Positive | None = Field(default=None, description="Length in minutes of training instead")
    batch_size: Count = Field(default=64, description="Images of an optimizer step, over all devices")
    micro_batch: Count | None = Field(default=None, description="Images at a time on a device (as many as fit)")
    lr: Positive | None = Field(default=None, description="Learning rate, instead of the base rate")
    base_lr: Positive | None = Field(
        default=None, description="Learning rate per 256 images of a batch (without it: 1e-3 x sqrt(batch / 256))"
    )
    lr_scale_by_tokens: bool = Field(default=False, description="Times rebuilt / hidden patches, as the reference does")
    min_lr: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Learning rate at the end")
    warmup_epochs: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Epochs of linear warm-up (5 %% of training)"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.05, description="Of matrices, not of 1-D parameters")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95), description="Of AdamW")
    clip_grad: Positive | None = Field(default=1.0, description="Limit of the gradient's norm")
    prune_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of low-loss samples left out of an epoch (InfoBatch)"
    )
    prune_until: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.875, description="Share of training after which nothing is left out"
    )
    crop_scale: tuple[float, float] = Field(default=(0.2, 1.0), description="Area of the random crops")
    turns: Literal["none", "horizontal", "all"] = Field(
        default="horizontal", description="Random turns: mirrored, or all 8 symmetries of the square"
    )
    dct_scaling: bool = Field(
        default=False, description="Decode JPEGs at part of their size where crops allow: faster at 1024 px, inexact"
    )
    gpu_decode: bool = Field(default=False, description="Decode JPEGs on the GPU (torchvision), without workers")
    # machine
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="Of matrix products")
    compile: Compile = Field(
        default="off", description="Fused kernels of the whole step (on), replayed as CUDA graphs (graphs)"
    )
    workers: int | Literal["auto"] = Field(default="auto", description="Processes that decode images")
    shard: bool = Field(default=False, description="Divide weights and optimizer state among the processes (FSDP)")
    recompute: bool = Field(
        default=False, description="Keep no activations inside blocks: less memory, a third more work"
    )
    gradient_precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="In which gradients travel between processes"
    )
    meet_timeout: Positive = Field(default=300.0, description="Seconds within which all processes must have met")
    hang_timeout: Positive = Field(default=1800.0, description="Seconds after which one that stands still ends the job")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Of weights, order, crops and selection")
    # records
    log_every: Count | None = Field(default=None, description="Steps between lines of metrics (CPU 1, GPU 20)")
    checkpoint_minutes: Positive = Field(default=10.0, description="Minutes between checkpoints")
    checkpoint_steps: Count | None = Field(default=None, description="Steps between checkpoints, beside the minutes")
    keep: Count = Field(default=2, description="How many of the last checkpoints are kept")
    keep_every: Annotated[int, Field(ge=0)] = Field(default=0, description="Keep those of every N-th step as well")
    probe_data: str | None = Field(default=None, description="Class folders for a kNN probe during training")
    probe_every: Count = Field(default=10, description="Epochs between probes")
    picture_every: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="Epochs between pictures of what is learned (0: only at the end)"
    )
    track: list[Literal["tensorboard", "wandb"]] = Field(
        default=[], description="Figures also to TensorBoard or Weights & Biases (offline)"
    )

    @classmethod
    def yielding(cls, weaker: dict[str, Any], stronger: dict[str, Any]) -> dict[str, Any]:
        """``--minutes`` takes no warm-up in epochs, and another method none of what a recipe says of its own."""
        gone: set[str] = {"warmup_epochs"} if stronger.get("minutes") is not None else set()
        if stronger.get("method") not in (None, weaker.get("method", "selectivemae")):
            gone |= {*OF_THE_METHOD}
        return {k: v for k, v in weaker.items() if k not in gone}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lengths = [n for n in self.alternatives if getattr(self, n) is not None]
        if len(lengths) > 1:
            raise ValueError(f"give one of {', '.join('--' + n.replace('_', '-') for n in lengths)}, not several")
        if self.minutes is not None and self.warmup_epochs is not None:
            raise ValueError(
                "--warmup-epochs needs --epochs or --samples-seen: with --minutes warm-up is 5 % of the time"
            )
        if self.shard and self.probe_data is not None:
            raise ValueError("--shard takes no --probe-data: judge the encoder afterwards with selectivemae probe")
        if isinstance(self.workers, int) and self.workers < 0:
            raise ValueError("--workers must be 0 or more, or auto")
        if self.compile == "graphs" and self.micro_batch is not None:
            raise ValueError("--compile graphs replays a whole batch: leave --micro-batch out, or use --compile on")
        if self.compile != "off" and self.shard:
            raise ValueError("--compile makes one graph of the step, --shard gathers weights inside it: leave one out")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"--crop-scale must be two ascending shares of the area, got {low} {high}")
        return self
