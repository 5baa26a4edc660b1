"""UPerNet against transformers' own, batch norm over processes against one over the whole batch, dropout by key."""

import os
import subprocess
import sys
from typing import Any, cast

import pytest
import torch
from torch import nn

from selectivemae.core.errors import TrainingError
from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.heads.upernet import BatchNorm, FCNHead, UPerHead, drop_channels

CHANNELS, CLASSES, WIDTH = [8, 12, 16, 20], 5, 24


def maps(batch: int = 2, side: int = 32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, c, side >> i, side >> i, generator=generator) for i, c in enumerate(CHANNELS)]


def upernet() -> Any:
    """transformers' module and its configuration, or a skip."""
    ensure_torchvision()
    module = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    configuration = module.UperNetConfig(
        backbone_config=None, hidden_size=WIDTH, auxiliary_channels=WIDTH, num_labels=CLASSES
    )
    return module, configuration


def unlike_fresh(module: nn.Module) -> None:
    """Weights, and running figures of the norms, that no fresh module has."""
    torch.manual_seed(5)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor.data, 0.1, 0.5) if tensor.ndim == 1 else nn.init.normal_(tensor.data, std=0.2)


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Both have their tensors in the same order but for the classifier, which is theirs' first and ours' last."""
    named = dict(theirs.state_dict())
    head = {k: named.pop(k) for k in ("classifier.weight", "classifier.bias")}
    if isinstance(ours, UPerHead):
        order = ("psp_modules", "bottleneck", "lateral_convs", "fpn_convs", "fpn_bottleneck")
        values = [v for start in order for k, v in named.items() if k.startswith(start + ".")]
    else:
        values = list(named.values())
    ours.load_state_dict(dict(zip(ours.state_dict(), [*values, *head.values()], strict=True)))


@pytest.mark.parametrize("kind", ["UperNetHead", "UperNetFCNHead"])
def test_equals_transformers(kind: str) -> None:
    module, configuration = upernet()
    theirs = getattr(module, kind)(configuration, CHANNELS).eval()
    unlike_fresh(theirs)
    ours = (UPerHead if kind == "UperNetHead" else FCNHead)(CHANNELS, CLASSES, WIDTH).eval()
    same_weights(ours, theirs)
    for side in (32, 48):
        with torch.inference_mode():
            mine, other = ours(maps(side=side)), theirs(maps(side=side))
        assert (mine - other).abs().max() < 1e-6 * max(1.0, float(other.abs().max()))
    with torch.no_grad():  # without keys nothing is dropped: equal in training, too, running figures included
        assert torch.allclose(ours.train()(maps()), theirs.train()(maps()), atol=1e-5)
    for mine, other in zip(sorted(ours.buffers(), key=str), sorted(theirs.buffers(), key=str), strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_size_of_the_published_head() -> None:
    """ViT-B: by arithmetic, convolutions without bias and two numbers a channel of each norm."""
    head = UPerHead([768] * 4, 7)
    convs = 4 * 768 * 512 + (768 + 4 * 512) * 512 * 9 + 3 * 768 * 512 + 3 * 512 * 512 * 9 + 4 * 512 * 512 * 9
    norms = (4 + 1 + 3 + 3 + 1) * 2 * 512
    assert sum(p.numel() for p in head.parameters()) == convs + norms + 512 * 7 + 7


def test_dropout_is_a_function_of_the_key() -> None:
    x = torch.ones(4, 4000, 1, 1)
    keys = torch.tensor([3, 4, 5, 6])
    out = drop_channels(x, 0.1, keys, 7)
    assert torch.equal(out[2:], drop_channels(x[2:], 0.1, keys[2:], 7))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)  # 5 standard errors
    assert not torch.equal(out[0], out[1])
    assert drop_channels(x, 0.1, None, 7) is x


def test_dropout_in_training_only() -> None:
    head, keys = UPerHead(CHANNELS, CLASSES, WIDTH), torch.tensor([1, 2])
    nn.init.normal_(head.classifier.weight)
    with torch.no_grad():
        assert not torch.equal(head(maps(), keys), head(maps()))
        head.eval()
        assert torch.equal(head(maps(), keys), head(maps()))


TWO = """
import sys, torch, torch.distributed as dist
from selectivemae.models.heads.upernet import BatchNorm
rank, where, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
x = torch.load(out + "/x.pt", weights_only=True)[2 * rank : 2 * rank + 2].requires_grad_()
norm = BatchNorm(3)
loss = (norm(x) ** 3 * torch.arange(1, 4)[:, None, None]).sum()
loss.backward()
for p in norm.parameters():
    dist.all_reduce(p.grad)
result = [x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var, norm.num_batches_tracked]
torch.save(result, f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(tmp_path) -> None:
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", TWO]
    jobs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet"), str(tmp_path)], env=dict(os.environ))
        for rank in range(2)
    ]
    assert [job.wait(60) for job in jobs] == [0, 0]
    norm, whole = nn.BatchNorm2d(3), x.clone().requires_grad_()
    (norm(whole) ** 3 * torch.arange(1, 4)[:, None, None]).sum().backward()
    assert whole.grad is not None
    for rank in range(2):
        grad, *others = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(grad, whole.grad[2 * rank : 2 * rank + 2], atol=1e-5)
        wanted = (norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var, norm.num_batches_tracked)
        for mine, other in zip(others, wanted, strict=True):
            assert torch.allclose(mine, cast(torch.Tensor, other), atol=1e-4)


def test_in_one_process_it_is_torchs_own() -> None:
    ours, theirs = BatchNorm(8), nn.BatchNorm2d(8)
    assert torch.equal(ours(maps()[0]), theirs(maps()[0]))


def test_one_image_alone_is_refused_in_one_line() -> None:
    with pytest.raises(TrainingError, match="--micro-batch of 2 or more"):
        UPerHead(CHANNELS, CLASSES, WIDTH)(maps(batch=1))
    assert UPerHead(CHANNELS, CLASSES, WIDTH).eval()(maps(batch=1)).shape == (1, CLASSES, 32, 32)
