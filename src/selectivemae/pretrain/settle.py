"""From settings to what the engine and the model take; and what makes a run the same run."""

import logging
from typing import Any

from selectivemae.core.errors import ConfigError
from selectivemae.data.stores import Store
from selectivemae.engine.optim import Budget, Schedule
from selectivemae.engine.precision import choose_device
from selectivemae.models.create import METHOD_DEFAULTS
from selectivemae.models.vit import architecture, check_image_size
from selectivemae.ops.selection import counts
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.objective import EarlySizes, check_compiler

log = logging.getLogger("selectivemae")

# What a run cannot change when it is resumed: its weights or its order of samples would be another run's.
IDENTITY = (
    "model", "method", "image_size", "patch_size", "channels", "decoder_depth", "self_attention", "norm_pix",
    "mask_ratio", "reconstruction_ratio", "batch_size", "seed",
)  # fmt: skip


def settle(config: PretrainConfig) -> PretrainConfig:
    """Fill in what the method decides, and check what only together makes sense. Raises ConfigError."""
    if not config.data:
        raise ConfigError("no data given: --data FOLDER (or archive) with images")
    if config.out is None:
        raise ConfigError("no output folder given: --out RUN")
    mask, rebuild, depth = METHOD_DEFAULTS[config.method]
    filled: dict[str, Any] = {
        "mask_ratio": config.mask_ratio or mask,
        "reconstruction_ratio": config.reconstruction_ratio or rebuild,
        "decoder_depth": config.decoder_depth or depth,
    }
    if config.epochs is None and config.samples_seen is None and config.minutes is None:
        filled["epochs"] = 100.0
    settled = PretrainConfig.build(config.settled(), filled)
    _check_early_sizes(settled)
    if config.compile != "off":
        check_compiler(choose_device(config.device), config.compile == "graphs")
    return settled


def _check_early_sizes(config: PretrainConfig) -> None:
    """ConfigError unless early sizes are below the image size, the patch divides them, and enough patches are left."""
    arch = architecture(config.model, config.patch_size)
    for side in config.early_sizes:
        check_image_size(arch, side, side)
        if side >= config.image_size:
            raise ConfigError(f"early size {side} is not below the image size {config.image_size}: leave it out")
        rebuilt = config.reconstruction_ratio if config.method == "selectivemae" else None
        counts((side // arch.patch) ** 2, config.mask_ratio or 0.0, rebuilt)


def early_of(config: PretrainConfig) -> EarlySizes:
    """The schedule of image sizes of a configuration."""
    return EarlySizes(config.early_sizes, config.early_share)


def model_arguments(config: PretrainConfig) -> dict[str, Any]:
    """The arguments of ``create_model`` for a settled configuration (plain data)."""
    return {
        "name": config.model,
        "method": config.method,
        "image_size": config.image_size,
        "in_chans": config.channels,
        "patch_size": config.patch_size,
        "richness": config.richness,
        "target_richness": config.target_richness,
        "richness_mode": config.richness_mode,
        "temperature": config.temperature,
        "order": config.order,
        "boundaries": config.phase_boundaries,
        "mask_ratio": config.mask_ratio,
        "reconstruction_ratio": config.reconstruction_ratio,
        "decoder_depth": config.decoder_depth,
        "self_attention": config.self_attention,
        "norm_pix": config.norm_pix,
        "residual_init": config.residual_init,
        "seed": config.seed,
    }


def budget_of(config: PretrainConfig) -> Budget:
    """The length of a settled configuration."""
    return Budget(config.epochs, config.samples_seen, config.minutes)


def schedule_of(config: PretrainConfig, count: int) -> Schedule:
    """The learning-rate schedule of a settled configuration over ``count`` samples an epoch (method.md, section 4).

    ConfigError when the last rate lies above the peak.
    """
    lr = config.lr or learning_rate(config)
    if config.min_lr > lr:
        raise ConfigError(f"--min-lr {config.min_lr:g} is above the learning rate {lr:g}")
    warmup = 0.05
    if config.warmup_epochs is not None:
        total = budget_of(config).total_epochs(count)
        assert total is not None  # --minutes takes no --warmup-epochs
        if config.warmup_epochs >= total:
            log.warning(
                "all %g epochs are warm-up (--warmup-epochs %g): the peak rate is never held",
                total,
                config.warmup_epochs,
            )
        warmup = min(config.warmup_epochs / total, 1.0)
    return Schedule(lr, config.min_lr, warmup)


def learning_rate(config: PretrainConfig) -> float:
    """The peak rate where none is given: ``base_lr`` x batch / 256, as the field counts it (method.md, section 4).

    Without a base rate 1e-3 x sqrt(batch / 256): the square root suits Adam from a laptop's batches to a cluster's,
    where the linear rule leaves small batches with a rate at which nothing is learned in hours.
    """
    if config.base_lr is None:
        lr = 1e-3 * (config.batch_size / 256) ** 0.5
    else:
        lr = config.base_lr * config.batch_size / 256
    if config.lr_scale_by_tokens and config.reconstruction_ratio and config.mask_ratio:
        lr *= config.reconstruction_ratio / config.mask_ratio
    return lr


def identity(config: PretrainConfig, store: Store) -> dict[str, Any]:
    """What a checkpoint says of the run that it belongs to."""
    settled = config.settled()
    return {k: settled[k] for k in IDENTITY} | {"samples": len(store), "fingerprint": store.fingerprint}
