"""RVSA against its equations, written out as slow loops, and against plain attention where the two must agree."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from selectivemae.models.rvsa import RVSA, FullAttention, SampledWindowAttention, resize_table
from selectivemae.models.vit import Architecture

ARCH = Architecture("test", 4, 4, 16, 2, 8, 2)


def randomised(module: Any, scale: float = 0.3) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module.double()


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """Value (d,) of ``image`` (d, H, W) at a real place; what lies outside is 0."""
    out = torch.zeros(image.shape[0], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                out += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return out


def predict(module: Any, name: str, mean: Tensor) -> Tensor:
    """1x1 convolution of the leaky rectified mean of a window."""
    conv = getattr(module, name)[2]
    rectified = torch.where(mean > 0, mean, 0.01 * mean)
    return conv.weight[:, :, 0, 0] @ rectified + conv.bias


def padded(x: Tensor, H: int, W: int, side: int) -> tuple[Tensor, int, int]:
    """Tokens (N, C) as a map (C, Hp, Wp) with zeros around, and how many above and left."""
    down, across = (side - H % side) % side, (side - W % side) % side
    out = torch.zeros(x.shape[1], H + down, W + across, dtype=x.dtype)
    out[:, down // 2 : down // 2 + H, across // 2 : across // 2 + W] = x.T.reshape(-1, H, W)
    return out, down // 2, across // 2


def slow_windows(module: SampledWindowAttention, tokens: Tensor, H: int, W: int) -> Tensor:
    """Section by section, one query at a time: (N, C) -> (N, C)."""
    s, h, C = module.window, module.heads, tokens.shape[1]
    d = C // h
    image, top, left = padded(tokens, H, W, s)
    q_all, k_all, v_all = (tokens @ module.qkv.weight.T + module.qkv.bias).split(C, dim=1)
    Hp, Wp = image.shape[1:]
    out = torch.zeros(Hp, Wp, C, dtype=tokens.dtype)
    for head in range(h):
        part = slice(head * d, (head + 1) * d)
        q, k, v = (padded(x[:, part], H, W, s)[0] for x in (q_all, k_all, v_all))
        for wy in range(Hp // s):
            for wx in range(Wp // s):
                mean = image[:, wy * s : wy * s + s, wx * s : wx * s + s].mean((1, 2))
                sampled = []
                for source, suffix in ((k, "_k"), (v, "_v")):
                    suffix = suffix if module.separate else ""
                    offsets = predict(module, f"sampling_offsets{suffix}", mean)[2 * head : 2 * head + 2]
                    scales = predict(module, f"sampling_scales{suffix}", mean)[2 * head : 2 * head + 2]
                    angle = float(predict(module, f"sampling_angles{suffix}", mean)[head])
                    cx = sum(-1 + 2 * (wx * s + i) / (Wp - 1) for i in range(s)) / s
                    cy = sum(-1 + 2 * (wy * s + i) / (Hp - 1) for i in range(s)) / s
                    taken = []
                    for ky in range(s):
                        for kx in range(s):
                            bx = (kx - 3) * 2 / (Wp - 1) * (float(scales[0]) + 1)
                            by = (ky - 3) * 2 / (Hp - 1) * (float(scales[1]) + 1)
                            px = cx + bx * math.cos(angle) - by * math.sin(angle) + float(offsets[0]) / (H // s)
                            py = cy + by * math.cos(angle) + bx * math.sin(angle) + float(offsets[1]) / (W // s)
                            taken.append(bilinear(source, (px + 1) / 2 * (Wp - 1), (py + 1) / 2 * (Hp - 1)))
                    sampled.append(torch.stack(taken))
                for y in range(s):
                    for x in range(s):
                        query = q[:, wy * s + y, wx * s + x]
                        score = sampled[0] @ query / math.sqrt(d)
                        for ky in range(s):
                            for kx in range(s):
                                dy, dx = y - ky + s - 1, x - kx + s - 1
                                score[ky * s + kx] += query @ module.rel_pos_h[dy] + query @ module.rel_pos_w[dx]
                                score[ky * s + kx] += module.relative_position_bias_table[dy * (2 * s - 1) + dx, head]
                        out[wy * s + y, wx * s + x, part] = score.softmax(0) @ sampled[1]
    out = out[top : top + H, left : left + W].reshape(H * W, C)
    return out @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(("H", "W"), [(7, 7), (8, 15)])
def test_sampled_windows_equal_their_equations(H: int, W: int, separate: bool) -> None:
    module = randomised(SampledWindowAttention(8, 2, separate=separate))
    tokens = torch.randn(2, H * W, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.stack([slow_windows(module, item, H, W) for item in tokens])
        torch.testing.assert_close(module(tokens, H, W), expected, atol=1e-9, rtol=0)
        single = module.float()(tokens.float(), H, W)
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=0)


def test_full_attention_equals_its_equations() -> None:
    H, W, h, d = 3, 4, 2, 4
    module = randomised(FullAttention(h * d, h, (H, W)))
    tokens = torch.randn(1, H * W, h * d, dtype=torch.float64)
    q, k, v = (tokens[0] @ module.qkv.weight.T + module.qkv.bias).split(h * d, dim=1)
    out = torch.zeros(H * W, h * d, dtype=torch.float64)
    for head in range(h):
        part = slice(head * d, (head + 1) * d)
        for i in range(H * W):
            query = q[i, part] / math.sqrt(d)
            near = [module.rel_pos_h[i // W - j // W + H - 1] for j in range(H * W)]
            near = [row + module.rel_pos_w[i % W - j % W + W - 1] for j, row in enumerate(near)]
            score = (k[:, part] + torch.stack(near)) @ query
            out[i, part] = score.softmax(0) @ v[:, part]
    torch.testing.assert_close(module(tokens, H, W)[0], out @ module.proj.weight.T + module.proj.bias)


def test_windows_left_in_place_are_plain_window_attention() -> None:
    """Without offset, scale, angle and bias, a single window is softmax attention of its 49 tokens."""
    module = SampledWindowAttention(8, 2, zero_init=True).double()
    torch.nn.init.zeros_(module.relative_position_bias_table)
    tokens = torch.randn(1, 49, 8, dtype=torch.float64)
    q, k, v = module.qkv(tokens).reshape(1, 49, 3, 2, 4).permute(2, 0, 3, 1, 4)
    plain = torch.softmax(q @ k.transpose(-2, -1) / 2, dim=-1) @ v
    torch.testing.assert_close(module(tokens, 7, 7), module.proj(plain.transpose(1, 2).reshape(1, 49, 8)))


def test_a_quarter_turn_of_the_angle_permutes_the_keys() -> None:
    """A window turned by 90 degrees samples the same keys; without position terms the output stays."""
    module = randomised(SampledWindowAttention(8, 2))
    for parameter in (module.relative_position_bias_table, module.rel_pos_h, module.rel_pos_w):
        torch.nn.init.zeros_(parameter)
    for name in ("offsets", "scales", "angles"):
        torch.nn.init.zeros_(getattr(module, f"sampling_{name}")[2].weight)
        torch.nn.init.zeros_(getattr(module, f"sampling_{name}")[2].bias)
    tokens = torch.randn(1, 14 * 14, 8, dtype=torch.float64)
    straight = module(tokens, 14, 14)
    torch.nn.init.constant_(module.sampling_angles[2].bias, math.pi / 2)
    torch.testing.assert_close(module(tokens, 14, 14), straight, atol=1e-7, rtol=0)


def test_blocks_taps_and_sizes() -> None:
    model = RVSA(ARCH, (56, 56), separate=True).eval()
    assert [type(block.attn).__name__ for block in model.blocks] == ["FullAttention"] * 4
    model = RVSA(ARCH, (56, 56), interval=2).eval()
    kinds = [type(block.attn).__name__ for block in model.blocks]
    assert kinds == ["SampledWindowAttention", "FullAttention"] * 2
    for size in ((56, 56), (64, 40), (28, 20)):
        maps = model.forward_intermediates(torch.randn(2, 3, *size), intermediates_only=True)
        assert [tuple(m.shape) for m in maps] == [(2, 16, size[0] // 4, size[1] // 4)] * 4
    images = torch.randn(2, 3, 56, 56)
    maps = model.forward_intermediates(images, [1, 3], stop_early=True, intermediates_only=True)
    tokens = maps[1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.forward_features(images), model.norm(tokens))
    torch.testing.assert_close(model(images), model.norm(tokens.mean(1)))


def test_key_names_and_shapes_of_the_published_layout() -> None:
    with torch.device("meta"):
        state = RVSA(Architecture("base", 16, 12, 768, 12, 512, 16)).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["blocks.0.attn.rel_pos_h"] == (13, 64)
    assert shapes["blocks.0.attn.relative_position_bias_table"] == (169, 12)
    assert shapes["blocks.0.attn.sampling_offsets.2.weight"] == (24, 768, 1, 1)
    assert shapes["blocks.0.attn.sampling_scales.2.bias"] == (24,)
    assert shapes["blocks.0.attn.sampling_angles.2.weight"] == (12, 768, 1, 1)
    assert [i for i in range(12) if shapes[f"blocks.{i}.attn.rel_pos_w"] == (27, 64)] == [2, 5, 8, 11]


def test_gradients_reach_every_parameter_with_and_without_checkpointing() -> None:
    model, images = RVSA(ARCH, (56, 56), interval=2), torch.randn(1, 3, 56, 56)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(checkpointing)
        model.forward_features(images).square().mean().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def test_resized_tables_keep_constants_and_ends() -> None:
    assert torch.allclose(resize_table(torch.full((27, 4), 2.5), 63), torch.full((63, 4), 2.5))
    table = torch.randn(27, 4)
    assert resize_table(table, 27) is table
