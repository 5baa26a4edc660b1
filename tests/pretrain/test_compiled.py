"""``--compile``: the same losses as the eager step, or a clear word where it cannot be."""

import shutil
from typing import Any

import pytest
import torch

from selectivemae.core.errors import ConfigError, TrainingError
from selectivemae.data.batch import Batch
from selectivemae.engine.loop import FitConfig, Trainer
from selectivemae.engine.measure import synthetic_batch
from selectivemae.engine.optim import Budget, Schedule, adamw
from selectivemae.engine.state import RunState
from selectivemae.models.create import create_model
from selectivemae.models.vit import SIZES
from selectivemae.ops import richness
from selectivemae.ops.richness import hog
from selectivemae.pretrain.config import Compile, PretrainConfig
from selectivemae.pretrain.objective import PretrainObjective, check_compiler

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 64, 2, 32, 2))


def losses(compiled: Compile, steps: int, **how: Any) -> torch.Tensor:
    model = create_model("vit_tiny_patch8", image_size=32, mask_ratio=0.5, decoder_depth=1, **how)
    objective = PretrainObjective(model, 0.05, compiled=compiled)
    optimizer = adamw(objective.parameter_groups(), (0.9, 0.95))
    optimizer.param_groups[0]["lr"] = 1e-3
    trainer = Trainer(objective, optimizer, FitConfig(Budget(epochs=1), Schedule(1e-3), 8, 8, CPU, "fp32"))
    state, seen = RunState(), []
    for step in range(steps):
        state.progress = step / steps
        trainer.step(synthetic_batch(8, 3, 32, 32, CPU, seed=step), state)
        assert state.loss is not None
        seen.append(state.loss)
        state.step += 1
    return torch.stack(seen)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("how", [{}, {"method": "mae"}, {"richness": "hog", "order": "near-far-random"}])
def test_compiled_losses_are_the_eager_ones(how: dict[str, Any]) -> None:
    torch.testing.assert_close(losses("on", 40, **how), losses("off", 40, **how), rtol=0, atol=1e-4)


def test_the_form_that_fuses_is_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (3, 3, 48, 64), generator=torch.Generator().manual_seed(0)) / 255
    wanted = hog(images, 16)
    monkeypatch.setattr(richness, "_fuses", lambda x: True)
    torch.testing.assert_close(hog(images, 16), wanted, rtol=0, atol=1e-5)


def test_more_models_than_torch_makes_graphs_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses the ninth; the backend that only traces shows it without a compiler."""
    compile = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compile(self, **how | {"backend": "eager", "mode": None})
    )
    monkeypatch.setattr("selectivemae.pretrain.objective.check_compiler", lambda device, graphs: None)
    batch = synthetic_batch(2, 3, 32, 32, CPU)
    for depth in range(1, 12):
        model = create_model("vit_tiny_patch8", image_size=32, mask_ratio=0.5, decoder_depth=depth)
        assert PretrainObjective(model, 0.05, compiled="on").step(batch, 0.0).loss.isfinite().all()


def test_no_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        check_compiler(CPU)
    with pytest.raises(ConfigError, match="needs a GPU"):
        check_compiler(CPU, graphs=True)


def test_graphs_want_batches_in_one_piece() -> None:
    objective = PretrainObjective(create_model("vit_tiny_patch8", image_size=32, mask_ratio=0.5, decoder_depth=1), 0.05)
    objective._graphs = True

    def part(n: int) -> Batch:
        return synthetic_batch(n, 3, 32, 32, CPU)

    assert objective.step(part(4), 0.0).loss.shape == (4,)
    with pytest.raises(TrainingError, match="one piece"):
        objective.step(part(2), 0.0)
    with pytest.raises(ConfigError, match="replays a whole batch"):
        PretrainConfig.build({"compile": "graphs", "micro_batch": 4})
