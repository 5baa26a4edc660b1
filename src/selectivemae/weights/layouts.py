"""Layouts of published checkpoints, as data: where the encoder lies in a file and what its tensors are called.

Each entry gives what ``convert.relabel`` needs to reach the names of the timm model of its family. Key names were
derived from the projects' public model and loading code.
"""

from dataclasses import dataclass

from selectivemae.models.masked import IMAGENET_MEAN, IMAGENET_STD

RGB_OF_BANDS = {13: (3, 2, 1), 12: (3, 2, 1)}
"""Places of red, green and blue among so many input channels: Sentinel-2 (L1C, L2A) from B1 on."""

_DECODER = (r"mask_token", r"decoder_\w+")
_WRAPPED = ("", "module.", "encoder.", "module.encoder.", "backbone.", "module.backbone.")
_VIT_ANCHOR = "patch_embed.proj.weight"


@dataclass(frozen=True)
class Layout:
    """One way in which a project names the tensors of an encoder.

    ``anchor`` must lie under one of ``prefixes`` (the longest that fits is the branch) and every pattern of ``marks``
    must be found in some key. ``rename`` are substitutions on names without the prefix, in turn; ``drop`` are patterns
    that a name, with or without the prefix, starts with; ``split`` cuts a tensor in equal parts along dim 0.
    ``inputs`` are the kernels that see the image's channels. ``refusal`` says why such a file cannot be used.
    """

    name: str
    family: str
    anchor: str
    source: str
    prefixes: tuple[str, ...] = ("",)
    marks: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    split: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    inputs: tuple[str, ...] = (_VIT_ANCHOR,)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224
    by_name: bool = False  # keys equal another layout's, so it is never guessed: only forced
    refusal: str = ""


# In the order in which they are tried: the special before the general.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="selectivemae",
        family="vit",
        anchor=_VIT_ANCHOR,
        source="MiliLab/SelectiveMAE (Apache-2.0)",
        prefixes=("", "module."),
        marks=(r"get_token_probs|decoder_embed1\.",),
        drop=(*_DECODER, r"pos_embed_probs", r"get_token_probs", r"hog\."),
    ),
    Layout(
        name="mae",
        family="vit",
        anchor=_VIT_ANCHOR,
        source="facebookresearch/mae (CC BY-NC 4.0)",
        prefixes=("", "module."),
        marks=(r"(^|\.)decoder_embed\.",),
        drop=_DECODER,
    ),
    Layout(
        name="vit",
        family="vit",
        anchor=_VIT_ANCHOR,
        source="timm and fine-tuned encoders of MAE type",
        prefixes=_WRAPPED,
        rename=((r"^fc_norm\.", "norm."),),
        drop=(r"mask_token", r"(?:module\.)?head\.", r"(?:module\.)?decode_head\.", r"(?:module\.)?neck\."),
    ),
)
