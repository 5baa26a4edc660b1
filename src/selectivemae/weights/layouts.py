"""Layouts of published checkpoints, as data: where the encoder lies in a file and what its tensors are called.

Each entry gives what ``convert.relabel`` needs to reach the names of the timm model of its family. Key names were
derived from the projects' public model and loading code.
"""

from dataclasses import dataclass

from selectivemae.models.masked import IMAGENET_MEAN, IMAGENET_STD

RGB_OF_BANDS = {13: (3, 2, 1), 12: (3, 2, 1)}
"""Places of red, green and blue among so many input channels: Sentinel-2 (L1C, L2A) from B1 on."""

UNIT_MEAN, UNIT_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # pixels in [0, 1] as they are
SATMAE_MEAN, SATMAE_STD = (0.4182, 0.4215, 0.3991), (0.2877, 0.2754, 0.2764)
DINOV3_SAT_MEAN, DINOV3_SAT_STD = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
HALF = (0.5, 0.5, 0.5)

_PATCH = "patch_embed.proj.weight"
_DECODER = (r"mask_token", r"decoder_\w+")
_TASK_HEADS = (r"(?:module\.)?(?:head|decode_head|neck|rpn_head|roi_head)\.",)
_WRAPPED = ("", "module.", "encoder.", "module.encoder.", "backbone.", "module.backbone.")
_RESNET_PREFIXES = (
    "",
    "module.",
    "encoder.",
    "module.encoder.",
    "encoder_q.",
    "module.encoder_q.",
    "backbone.",
    "features.",
)
_CONTRAST = (r"(?:module\.)?encoder_k\.", r"(?:module\.)?queue", r"heads_[qk]\.", r"(?:module\.)?head\.", r"fc\.")
_SEQUENTIAL = (  # a ResNet kept as nn.Sequential: stem convolution, norm, ReLU, pool, four stages
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^4\.", "layer1."),
    (r"^5\.", "layer2."),
    (r"^6\.", "layer3."),
    (r"^7\.", "layer4."),
)
_TORCHVISION_SWIN = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    *((rf"^features\.{2 * i + 1}\.(\d+)\.", rf"layers.{i}.blocks.\1.") for i in range(4)),
    *((rf"^features\.{2 * i}\.", f"layers.{i}.downsample.") for i in range(1, 4)),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
_BUFFERS = (r".*\.relative_position_index$", r".*\.relative_coords_table$", r".*\.attn_mask$")
_QV_BIAS = ((r"(.*\.attn)\.qkv\.bias", (r"\1.q_bias", None, r"\1.v_bias")),)  # the third of the keys is not used


RVSA_OWN = r".*\.attn\.(rel_pos_[hw]|relative_position_bias_table|sampling_\w+\.2\.\w+)"
"""Parameters of RVSA that plain vision transformers lack: fresh when it starts from their weights."""


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
    inputs: tuple[str, ...] = (_PATCH,)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: int = 224
    by_name: bool = False  # keys equal another layout's, so it is never guessed: only forced
    refusal: str = ""


# In the order in which they are tried: the special before the general.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="satmae-grouped",
        family="vit",
        anchor="patch_embed.0.proj.weight",
        source="sustainlab-group/SatMAE (CC BY-NC 4.0), Sentinel-2",
        prefixes=("", "module."),
        refusal="SatMAE's grouped-band model for Sentinel-2 (three patch embeddings) takes no RGB images; "
        "use its RGB weights fmow_pretrain.pth",
    ),
    Layout(
        name="ringmo",
        family="swin",
        anchor=_PATCH,
        source="comeony/RingMo",
        by_name=True,
        refusal="RingMo's weights are not published, so there is no layout to read",
    ),
    Layout(
        name="vitae-rvsa",
        family="rvsa",
        anchor=_PATCH,
        source="ViTAE-Transformer/Remote-Sensing-RVSA (MIT), ViTAE-B",
        prefixes=_WRAPPED,
        marks=(r"\.PCM\.0\.",),
        refusal="ViTAE-B has a convolution branch (PCM) in every block, which no backbone here has; use ViT-B weights",
    ),
    Layout(
        name="rvsa",
        family="rvsa",
        anchor=_PATCH,
        source="ViTAE-Transformer/Remote-Sensing-RVSA and MTP (MIT), ViT-B + RVSA",
        prefixes=_WRAPPED,
        marks=(r"blocks\.0\.attn\.sampling_offsets",),
        rename=((r"\.full_attn_rel_pos_", ".rel_pos_"), (r"^fc_norm\.", "norm.")),
        drop=(*_BUFFERS, *_DECODER, r"cls_token", *_TASK_HEADS),
    ),
    Layout(
        name="selectivemae",
        family="vit",
        anchor=_PATCH,
        source="MiliLab/SelectiveMAE (Apache-2.0)",
        prefixes=("", "module."),
        marks=(r"get_token_probs|decoder_embed1\.",),
        drop=(*_DECODER, r"pos_embed_probs", r"get_token_probs", r"hog\."),
    ),
    Layout(
        name="scalemae",
        family="scalemae",
        anchor=_PATCH,
        source="bair-climate-initiative/scale-mae (CC BY-NC 4.0)",
        prefixes=("", "module."),
        marks=(r"(^|\.)fpn\.fpn1\.|mask_token_decoder",),
        drop=(*_DECODER, r"pos_embed$", r"fpn\.", r"fcn\w*\."),  # positions are computed for each size
    ),
    Layout(
        name="satmae",
        family="vit",
        anchor=_PATCH,
        source="sustainlab-group/SatMAE (CC BY-NC 4.0), RGB",
        prefixes=("", "module."),
        drop=_DECODER,
        mean=SATMAE_MEAN,
        std=SATMAE_STD,
        by_name=True,
    ),
    Layout(
        name="mae",
        family="vit",
        anchor=_PATCH,
        source="facebookresearch/mae (CC BY-NC 4.0)",
        prefixes=("", "module."),
        marks=(r"(^|\.)decoder_embed\.",),
        drop=_DECODER,
    ),
    Layout(
        name="ssl4eo-moco",
        family="vit",
        anchor=_PATCH,
        source="zhu-xlab/SSL4EO-S12 (CC-BY-4.0), MoCo-v3",
        prefixes=("module.base_encoder.",),
        drop=(r"head\.", r"module\.momentum_encoder\.", r"module\.predictor\."),
        mean=UNIT_MEAN,
        std=UNIT_STD,
    ),
    Layout(
        name="ssl4eo-dino",
        family="vit",
        anchor=_PATCH,
        source="zhu-xlab/SSL4EO-S12 (CC-BY-4.0), DINO",
        prefixes=("backbone.", "module.backbone."),
        marks=(r"head\.(mlp|last_layer)",),
        drop=(r"(?:module\.)?head\.",),
        mean=UNIT_MEAN,
        std=UNIT_STD,
    ),
    Layout(
        name="dinov3-meta",
        family="dinov3",
        anchor="storage_tokens",
        source="facebookresearch/dinov3 (DINOv3 licence, gated)",
        rename=(
            (r"^storage_tokens$", "reg_token"),
            (r"\.ls1\.gamma$", ".gamma_1"),
            (r"\.ls2\.gamma$", ".gamma_2"),
        ),
        drop=(r"mask_token", r".*\.bias_mask$", r"rope_embed\."),
        split=_QV_BIAS,
        mean=DINOV3_SAT_MEAN,
        std=DINOV3_SAT_STD,
        image_size=256,
    ),
    Layout(
        name="dinov3",
        family="dinov3",
        anchor="reg_token",
        source="timm/vit_large_patch16_dinov3.sat493m (DINOv3 licence, gated)",
        marks=(r"blocks\.0\.gamma_1",),
        mean=DINOV3_SAT_MEAN,
        std=DINOV3_SAT_STD,
        image_size=256,
    ),
    Layout(
        name="vit",
        family="vit",
        anchor=_PATCH,
        source="timm, the reference's dense-task backbones, SSL4EO in torchgeo's conversion",
        prefixes=_WRAPPED,
        marks=(r"^(?:module\.|encoder\.|backbone\.)*blocks\.0\.attn\.qkv\.weight",),
        rename=((r"^fc_norm\.", "norm."),),
        drop=(r"mask_token", *_TASK_HEADS),
    ),
    Layout(
        name="satlas",
        family="swinv2",
        anchor="features.0.0.weight",
        source="allenai/satlaspretrain_models (weights ODC-BY)",
        prefixes=("", "backbone.", "backbone.backbone.", "backbone.backbone.backbone."),
        marks=(r"features\.1\.0\.attn\.cpb_mlp\.0\.weight",),
        rename=_TORCHVISION_SWIN,
        drop=(*_BUFFERS, r"intermediates\.", r"heads?\."),
        split=_QV_BIAS,
        mean=UNIT_MEAN,
        std=UNIT_STD,
        image_size=256,
    ),
    Layout(
        name="gfm",
        family="swin",
        anchor="layers.0.blocks.0.attn.relative_position_bias_table",
        source="mmendiet/GFM (Apache-2.0)",
        prefixes=("", "encoder."),
        marks=(r"layers\.0\.downsample\.",),
        rename=tuple((rf"^layers\.{i}\.downsample\.", f"layers.{i + 1}.downsample.") for i in (2, 1, 0)),
        drop=(*_BUFFERS, r"mask_token", r"decoder\.", r"projector\.", r"teacher\.", r"head\."),
        image_size=192,
    ),
    Layout(
        name="seco",
        family="resnet",
        anchor="4.0.conv1.weight",
        source="ServiceNow/seasonal-contrast (Apache-2.0), and CACo's .ckpt files",
        prefixes=("encoder_q.", "module.encoder_q."),
        rename=_SEQUENTIAL,
        drop=_CONTRAST,
        inputs=("conv1.weight",),
    ),
    Layout(
        name="caco",
        family="resnet",
        anchor="4.0.conv1.weight",
        source="utkarshmall13/CACo (MIT)",
        rename=_SEQUENTIAL,
        inputs=("conv1.weight",),
    ),
    Layout(
        name="gassl",
        family="resnet",
        anchor="layer1.0.conv1.weight",
        source="sustainlab-group/geography-aware-ssl (no licence stated)",
        prefixes=("module.encoder_q.",),
        marks=(r"^module\.encoder_k\.",),
        drop=_CONTRAST,
        inputs=("conv1.weight",),
    ),
    Layout(
        name="tov",
        family="resnet",
        anchor="layer1.0.conv1.weight",
        source="GeoX-Lab/G-RSIM, TOV_v1 (no licence stated; prefix not verified, all usual ones are tried)",
        prefixes=_RESNET_PREFIXES,
        drop=_CONTRAST,
        inputs=("conv1.weight",),
        mean=HALF,
        std=HALF,
        by_name=True,
    ),
    Layout(
        name="resnet",
        family="resnet",
        anchor="layer1.0.conv1.weight",
        source="torchvision's and timm's names, under any usual prefix",
        prefixes=_RESNET_PREFIXES,
        drop=_CONTRAST,
        inputs=("conv1.weight",),
    ),
)
