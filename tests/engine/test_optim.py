"""Schedule, groups, budget and the fused step that can be skipped."""

import math

import pytest
import torch
from torch import nn

from selectivemae.core.errors import ConfigError
from selectivemae.engine.optim import Budget, Schedule, StepSchedule, adamw, decay_groups, set_lr
from selectivemae.models.create import create_model


def test_the_published_schedule() -> None:
    """Linear warm-up over 30 of 800 epochs, then half a cosine to 0 (method.md, section 4)."""
    peak = 1.5e-4 * 2048 / 256 * 0.25 / 0.85
    assert peak == pytest.approx(3.53e-4, rel=1e-3)
    schedule = Schedule(peak, 0.0, 30 / 800)
    for epoch in (0, 1, 15, 29.5, 30, 100, 415, 799, 800):
        fallen = 0.5 * (1 + math.cos(math.pi * (epoch - 30) / 770))
        wanted = peak * (epoch / 30 if epoch < 30 else fallen)
        assert schedule.at(epoch / 800) == pytest.approx(wanted, abs=1e-12)


def test_a_floor_and_no_warm_up() -> None:
    schedule = Schedule(1.0, 0.1, 0.0)
    assert schedule.at(0.0) == 1.0
    assert schedule.at(0.5) == pytest.approx(0.55)
    assert schedule.at(1.0) == pytest.approx(0.1)
    assert Schedule(1.0, 0.0, 1.0).at(1.0) == pytest.approx(1.0)


def test_the_published_steps_of_detection() -> None:
    """500 iterations of warm-up from 1e-6, times 0.1 after epochs 8 and 11 of 12, 11,725 images in batches of 4."""
    iterations = 12 * 11725 / 4
    schedule = StepSchedule(1e-4, (8 / 12, 11 / 12), 0.1, 500 / iterations)
    for iteration, factor in ((0, 1e-6), (250, 0.5 * (1 + 1e-6)), (500, 1.0), (2931, 1.0)):
        assert schedule.at(iteration / iterations) == pytest.approx(1e-4 * factor, rel=1e-9)
    for epoch, factor in ((7.99, 1.0), (8.0, 0.1), (10.99, 0.1), (11.0, 0.01), (12.0, 0.01)):
        assert schedule.at(epoch / 12) == pytest.approx(1e-4 * factor, rel=1e-9)
    assert StepSchedule(1.0, ()).at(0.0) == 1.0


def test_matrices_decay_and_nothing_else_does() -> None:
    model = create_model("vit_tiny_patch16", image_size=96, decoder_depth=1)
    groups = decay_groups(model.named_parameters(), 0.05)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        plain = parameter.ndim == 1 or name.endswith("token")
        assert decay[id(parameter)] == (0.0 if plain else 0.05), name
        assert plain == (not name.endswith("weight") or "norm" in name), name


def test_frozen_parameters_are_in_no_group() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    assert [len(g["params"]) for g in decay_groups(layer.named_parameters(), 0.1)] == [0, 1]


def test_adamw_equals_its_formula_and_skips_what_is_not_finite() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = adamw([{"params": [parameter], "weight_decay": 0.1}], (0.9, 0.95))
    set_lr(optimizer, Schedule(0.01, 0.0, 0.0), 0.0)
    value = [1.0, -2.0]
    first, second = [0.0, 0.0], [0.0, 0.0]
    steps = 0
    for gradient, bad in (([0.5, 1.0], False), ([float("nan"), 1.0], True), ([-0.25, 2.0], False)):
        parameter.grad = torch.tensor(gradient)
        optimizer.found_inf = torch.tensor(float(bad))  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()
        if bad:
            continue
        steps += 1
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.95 * second[i] + 0.05 * g * g
            update = (first[i] / (1 - 0.9**steps)) / (math.sqrt(second[i] / (1 - 0.95**steps)) + 1e-8)
            value[i] = value[i] * (1 - 0.01 * 0.1) - 0.01 * update
    torch.testing.assert_close(parameter.detach(), torch.tensor(value), rtol=1e-6, atol=1e-7)


def test_layer_scales_multiply_the_rate() -> None:
    layers = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    optimizer = adamw(
        [{"params": layers[0].parameters(), "lr_scale": 0.5}, {"params": layers[1].parameters()}], (0.0, 0.0)
    )
    assert set_lr(optimizer, Schedule(0.2, 0.0, 0.0), 0.0) == 0.2
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.2]


def test_budgets() -> None:
    assert Budget(epochs=4).progress(1.0, 999, 9.0) == 0.25
    assert Budget(samples=200).progress(9.0, 50, 9.0) == 0.25
    assert Budget(minutes=2).progress(9.0, 999, 30.0) == 0.25
    assert Budget(epochs=1).progress(7.0, 0, 0.0) == 1.0
    assert [Budget(epochs=4).total_epochs(10), Budget(samples=200).total_epochs(10)] == [4, 20]
    assert Budget(minutes=1).total_epochs(10) is None
    for given in ({}, {"epochs": 1, "minutes": 1}):
        with pytest.raises(ConfigError, match="exactly one"):
            Budget(**given)
    with pytest.raises(ConfigError, match="above 0"):
        Budget(epochs=-1)
