"""Pre-training models by name."""

from typing import Literal, get_args

from selectivemae.core.errors import ConfigError
from selectivemae.models.mae import MAE
from selectivemae.models.masked import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MaskedAutoencoder,
    MaskedConfig,
    ResidualInit,
    initialise,
)
from selectivemae.models.selective_mae import SelectionConfig, SelectiveMAE
from selectivemae.models.vit import architecture
from selectivemae.ops.phases import ORDERS, check_boundaries
from selectivemae.ops.richness import MEASURES

Method = Literal["selectivemae", "mae"]
# mask ratio, reconstruction ratio, decoder depth: the published commands of the two methods
METHOD_DEFAULTS: dict[str, tuple[float, float | None, int]] = {
    "selectivemae": (0.85, 0.25, 12),
    "mae": (0.75, None, 8),
}


def normalisation(in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel of pixels in [0, 1]: ImageNet's for 3 channels, 0.5 and 0.25 for others."""
    if in_chans == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * in_chans, (0.25,) * in_chans


def _one_of(value: str | None, known: object, what: str) -> None:
    names = list(known)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if value is not None and value not in names:
        raise ConfigError(f"unknown {what} {value!r} (known: {', '.join(names)})")


def _check_selection(selection: SelectionConfig) -> None:
    _one_of(selection.richness, MEASURES, "richness")
    _one_of(selection.target_richness, MEASURES, "target richness")
    _one_of(selection.mode, ("sample", "topk"), "richness mode")
    _one_of(selection.order, ORDERS, "order")
    if selection.boundaries is not None:
        check_boundaries(selection.order, selection.boundaries)
    if selection.temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {selection.temperature}")


def create_model(
    name: str,
    method: Method = "selectivemae",
    image_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    *,
    patch_size: int | None = None,
    richness: str = "uniform",
    target_richness: str | None = None,
    richness_mode: str = "sample",
    temperature: float = 0.5,
    order: str = "random",
    boundaries: tuple[float, ...] | None = None,
    mask_ratio: float | None = None,
    reconstruction_ratio: float | None = None,
    decoder_depth: int | None = None,
    self_attention: bool = False,
    norm_pix: bool = True,
    residual_init: ResidualInit = "xavier",
    seed: int = 0,
) -> MaskedAutoencoder:
    """A pre-training model with fresh weights that depend on ``seed`` alone.

    ``name`` is ``vit_tiny|small|base|large|huge_patchP``; ``image_size`` a side or (height, width) in pixels that
    the patch divides. Options left None take the method's published values (``METHOD_DEFAULTS``). Those of
    selection are SelectiveMAE's and have no effect on MAE, which masks at random. ``residual_init`` is the published
    "xavier", or "zero" (``initialise``). Raises ConfigError for unknown names, sizes that do not fit and ratios that
    leave no seed or target.
    """
    _one_of(method, get_args(Method), "method")
    _one_of(residual_init, get_args(ResidualInit), "residual init")
    selection = SelectionConfig(richness, target_richness, richness_mode, temperature, order, boundaries)
    _check_selection(selection)
    if method == "mae" and reconstruction_ratio is not None:
        raise ConfigError("MAE rebuilds every masked patch: it takes no reconstruction ratio")
    mask, rebuild, depth = METHOD_DEFAULTS[method]
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    mean, std = normalisation(in_chans)
    config = MaskedConfig(
        arch=architecture(name, patch_size),
        height=height,
        width=width,
        in_chans=in_chans,
        decoder_depth=depth if decoder_depth is None else decoder_depth,
        mask_ratio=mask if mask_ratio is None else mask_ratio,
        reconstruction_ratio=rebuild if reconstruction_ratio is None else reconstruction_ratio,
        norm_pix=norm_pix,
        mean=mean,
        std=std,
    )
    if method == "mae":
        model: MaskedAutoencoder = MAE(config)
    else:
        model = SelectiveMAE(config, selection, self_attention)
    initialise(model, seed, residual_init)
    return model
