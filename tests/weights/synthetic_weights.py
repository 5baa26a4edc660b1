"""Checkpoints in the layouts of published projects, made from stock models of depth 2 with random weights."""

from typing import Any

import torch
from torch import Tensor, nn

from selectivemae.models._torchvision import ensure_torchvision

ensure_torchvision()

import timm  # noqa: E402
from timm.models.swin_transformer import SwinTransformer  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

State = dict[str, Tensor]
D, DD = 192, 64


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def randomise(model: nn.Module, seed: int = 1) -> nn.Module:
    """Every parameter and running statistic away from its start, so that a swap of two shows."""
    generator = torch.Generator().manual_seed(seed)
    learnt = {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        if name in learnt or "running" in name:
            value.copy_(value + 0.05 * torch.randn(value.shape, generator=generator).abs())
    return model.eval()


def vit(depth: int = 2, in_chans: int = 3, **options: Any) -> VisionTransformer:
    model = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=D, depth=depth, num_heads=3, num_classes=0, in_chans=in_chans, **options
    )
    return randomise(model)  # pyright: ignore[reportReturnType]


def block(prefix: str, width: int, *, cross: int | None = None, qkv_bias: bool = True) -> State:
    """Tensors of one decoder block: self-attention, or cross-attention to tokens of width ``cross``."""
    shapes = {"norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,)}
    shapes |= {"mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,)}
    shapes |= {"mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,)}
    attention = "attn" if cross is None else "cross_attn"
    shapes |= {f"{attention}.proj.weight": (width, width), f"{attention}.proj.bias": (width,)}
    if cross is None:
        shapes |= {"attn.qkv.weight": (3 * width, width)} | ({"attn.qkv.bias": (3 * width,)} if qkv_bias else {})
    else:
        shapes |= {"cross_attn.q.weight": (width, width), "cross_attn.q.bias": (width,)}
        shapes |= {"cross_attn.kv.weight": (2 * width, cross), "cross_attn.kv.bias": (2 * width,)}
    return {prefix + key: torch.randn(shape) for key, shape in shapes.items()}


def mae_extras(tokens: int = 17) -> State:
    state = {"mask_token": torch.randn(1, 1, DD), "decoder_pos_embed": torch.randn(1, tokens, DD)}
    state |= {"decoder_embed.weight": torch.randn(DD, D), "decoder_embed.bias": torch.randn(DD)}
    state |= {"decoder_norm.weight": torch.randn(DD), "decoder_norm.bias": torch.randn(DD)}
    state |= {"decoder_pred.weight": torch.randn(768, DD), "decoder_pred.bias": torch.randn(768)}
    return state | block("decoder_blocks.0.", DD) | block("decoder_blocks.1.", DD)


def selectivemae_extras() -> State:
    state = {
        key: value for key, value in mae_extras().items() if not key.startswith(("decoder_blocks", "decoder_embed"))
    }
    state |= {"decoder_embed1.weight": torch.randn(DD, D), "decoder_embed1.bias": torch.randn(DD)}
    state |= block("decoder_blocks.0.", DD, cross=D) | block("decoder_blocks.1.", DD, cross=D)
    state |= block("get_token_probs.0.", D, qkv_bias=False)
    state |= {"get_token_probs.1.weight": torch.randn(1, D), "get_token_probs.1.bias": torch.randn(1)}
    state |= {"get_token_probs_linear.weight": torch.randn(1, D), "get_token_probs_linear.bias": torch.randn(1)}
    state |= {"hog.weight_x": torch.randn(3, 1, 3, 3), "hog.weight_y": torch.randn(3, 1, 3, 3)}
    return state | {"hog.gkern": torch.randn(16, 16), "pos_embed_probs": torch.randn(1, 16, D)}


def scalemae_extras() -> State:
    state = mae_extras() | {"mask_token_decoder": torch.randn(1, 1, DD), "fpn.fpn1.0.weight": torch.randn(DD, DD, 2, 2)}
    state |= {"fpn.fpn1.1.ln.weight": torch.randn(DD), "fpn.fpn1.3.weight": torch.randn(DD, DD, 2, 2)}
    state |= {"fpn.fpn2.0.weight": torch.randn(DD, DD, 2, 2), "fcn_high.proj.weight": torch.randn(8, DD)}
    return state | {
        "fcn_low.conv_blocks.0.convs.1.weight": torch.randn(8, 8, 3, 3),
        "fcn.pred.0.ln.weight": torch.randn(8),
    }


def resnet(name: str = "resnet18") -> nn.Module:
    return randomise(timm.create_model(name, num_classes=0))


def sequential(model: nn.Module) -> State:
    """A ResNet's tensors as a project names them that keeps its children in an ``nn.Sequential``."""
    return dict(nn.Sequential(*list(model.children())[:-1]).state_dict())


def contrast_extras() -> State:
    return {"queue": torch.randn(3, 8, 16), "queue_ptr": torch.zeros(3, 1, dtype=torch.long)}


def swin(
    window: int = 6, depths: tuple[int, ...] = (2, 2, 2, 2), embed_dim: int = 32, **options: Any
) -> SwinTransformer:
    model = SwinTransformer(
        img_size=32 * window,
        window_size=window,
        embed_dim=embed_dim,
        depths=depths,  # pyright: ignore[reportArgumentType]
        num_heads=tuple(embed_dim // 32 * 2**i for i in range(4)),  # pyright: ignore[reportArgumentType]
        num_classes=0,
        **options,
    )
    return randomise(model)  # pyright: ignore[reportReturnType]


def gfm(model: nn.Module) -> State:
    """timm's Swin tensors as GFM names them: merging at the end of a stage, buffers stored."""
    state: State = {}
    for key, value in model.state_dict().items():
        for i in range(1, 4):
            key = key.replace(f"layers.{i}.downsample", f"layers.{i - 1}_downsample")
        state["encoder." + key.replace("_downsample", ".downsample")] = value
    for i in range(4):
        state[f"encoder.layers.{i}.blocks.0.attn.relative_position_index"] = torch.zeros(36, 36, dtype=torch.long)
    state["encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(64, 36, 36)
    extras = {"encoder.mask_token": torch.randn(1, 1, 32), "decoder.0.weight": torch.randn(8, 8, 1, 1)}
    extras |= {"projector.weight": torch.randn(8, 8), "teacher.norm.weight": torch.randn(8)}
    return state | extras


def dinov3(**options: Any) -> nn.Module:
    return randomise(timm.create_model("vit_small_patch16_dinov3", num_classes=0, depth=2, img_size=64, **options))


def dinov3_meta(model: nn.Module) -> State:
    """timm's DINOv3 tensors under their first names, with a bias of zero and its mask."""
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    state: State = {"mask_token": torch.randn(1, 384), "rope_embed.periods": torch.randn(16)}
    for key, value in model.state_dict().items():
        for timm_part, meta_part in names.items():
            key = key.replace(timm_part, meta_part)
        state[key] = value
        if key.endswith("attn.qkv.weight"):
            bias = key.removesuffix("weight") + "bias"
            state[bias], state[bias + "_mask"] = torch.zeros(value.shape[0]), torch.ones(value.shape[0])
    return state
