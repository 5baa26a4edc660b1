"""Counted operations and saved bytes against what is known of one linear map."""

import pytest
import torch
from torch import nn

from selectivemae.data.batch import Batch
from selectivemae.engine.measure import (
    flops_per_image,
    interleaved,
    matrix_peak,
    saved_bytes,
    synthetic_batch,
)
from selectivemae.engine.state import StepOutput


class OneLinear:
    """An objective of one 48 -> 10 linear map."""

    def __init__(self) -> None:
        self.model: nn.Module = nn.Linear(48, 10, bias=False)

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.model.parameters())}]

    def step(self, batch: Batch, progress: float) -> StepOutput:
        return StepOutput(self.model(batch.images.float().flatten(1)).sum(dim=1))


def test_flops_of_a_linear_map():
    batch = synthetic_batch(4, 3, 4, 4, torch.device("cpu"))
    # forward 2 * 48 * 10; backward the weight's gradient alone (the input needs none)
    assert flops_per_image(OneLinear(), batch) == 2 * 2 * 48 * 10


def test_saved_bytes_of_a_linear_map():
    batch = synthetic_batch(4, 3, 4, 4, torch.device("cpu"))
    assert saved_bytes(OneLinear(), batch, "fp32") == (48 * 4, 0)  # its input, in fp32
    # The input in bf16 (autocast's copy); the copy of the 48 x 10 weights is there once, however many images.
    assert saved_bytes(OneLinear(), batch, "bf16") == (48 * 2, 0)


def test_copies_of_weights_do_not_count_for_each_image():
    """A second map must keep its weights for the gradient of its input: under bf16 a copy of them."""
    objective = OneLinear()
    objective.model = nn.Sequential(nn.Linear(48, 10, bias=False), nn.Linear(10, 7, bias=False))
    for images in (4, 9):
        batch = synthetic_batch(images, 3, 4, 4, torch.device("cpu"))
        assert saved_bytes(objective, batch, "bf16") == (48 * 2 + 10 * 2, 10 * 7 * 2)


def test_published_model_costs_what_the_reference_was_measured_at():
    """method.md, section 10: 6.96 GFLOP an image for ViT-S (a decoder map and a layer less here), MAE 15.39."""
    from selectivemae.models.create import create_model
    from selectivemae.pretrain.objective import PretrainObjective

    batch = synthetic_batch(1, 3, 224, 224, torch.device("cpu"))
    ours = flops_per_image(PretrainObjective(create_model("vit_small_patch16"), 0.05), batch) / 1e9
    mae = flops_per_image(PretrainObjective(create_model("vit_small_patch16", "mae"), 0.05), batch) / 1e9
    assert ours == pytest.approx(6.96, rel=0.05)
    assert mae == pytest.approx(15.39, rel=0.05)


def test_rounds_are_interleaved_and_warm_up_does_not_count():
    order = []

    def call(name: str):
        return lambda: order.append(name) or float(len(order))

    times = interleaved({"a": call("a"), "b": call("b")}, rounds=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert times == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_matrix_peak_is_plausible():
    assert 1e8 < matrix_peak(torch.device("cpu"), "fp32", side=256, seconds=0.05) < 1e15
