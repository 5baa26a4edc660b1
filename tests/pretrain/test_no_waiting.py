"""A training step never makes the host wait for the device: no value of a tensor is looked at."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selectivemae.engine.loop import FitConfig, Trainer
from selectivemae.engine.measure import synthetic_batch
from selectivemae.engine.optim import Budget, Schedule, adamw
from selectivemae.engine.state import RunState
from selectivemae.models.create import create_model
from selectivemae.models.vit import SIZES
from selectivemae.ops import richness
from selectivemae.pretrain.objective import EarlySizes, PretrainObjective

LOOKS = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero", "is_nonzero"}
SIZED_BY_VALUES = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero",
                   "aten::_unique2", "aten::equal", "aten::repeat_interleave.Tensor"}  # fmt: skip


class NoLook(TorchFunctionMode):
    """Fails where Python asks for a tensor's value (the numbers of the samples lie on the host and are free), or puts
    one of its own on a device, for which torch waits."""

    def __init__(self, free: torch.Tensor) -> None:
        super().__init__()
        self.free = free

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in LOOKS and args[0] is not self.free:
            raise AssertionError(f"{func.__name__} waits for the device")
        if func in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device") is not None:
            raise AssertionError(f"{func.__name__} on a device waits for it")
        return func(*args, **(kwargs or {}))


class NoWait(TorchDispatchMode):
    """Fails at operators that must know a tensor's values on the host, also where C++ calls them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = [t for t in tree_leaves(args[1:]) if isinstance(t, torch.Tensor) and t.dtype == torch.bool]
        if func._schema.name in SIZED_BY_VALUES or (func._schema.name in ("aten::index", "aten::index_put_") and masks):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 64, 2, 32, 2))
    monkeypatch.setattr(richness, "_fuses", lambda images: True)


@pytest.mark.parametrize("value", [
    lambda x: x.item(), lambda x: x[x > 0], lambda x: bool(x.sum() > 0), lambda x: torch.tensor(2.0, device=x.device),
])  # fmt: skip
def test_the_modes_notice(value: Any) -> None:
    x = torch.ones(1)
    with pytest.raises(AssertionError, match="waits"), NoWait(), NoLook(torch.ones(1)):
        value(x)


@pytest.mark.parametrize("progress", [0.0, 0.36, 0.74, 1.0])
@pytest.mark.parametrize(("method", "how"), [
    ("mae", {}), ("selectivemae", {}), ("selectivemae", {"richness": "hog", "order": "near-far-random"}),
    ("selectivemae", {"richness": "entropy", "richness_mode": "topk", "order": "far-near-random"}),
])  # fmt: skip
def test_a_step_looks_at_no_value(method: Any, how: dict[str, Any], progress: float) -> None:
    device = torch.device("cpu")
    model = create_model("vit_tiny_patch8", method, 32, mask_ratio=0.5, decoder_depth=1, **how)
    objective = PretrainObjective(model, 0.05, early=EarlySizes((16,), 0.3))
    fit = FitConfig(Budget(epochs=1), Schedule(1e-3), 4, 2, device, "bf16")
    trainer = Trainer(objective, adamw(objective.parameter_groups(), (0.9, 0.95)), fit)
    batch, state = synthetic_batch(4, 3, 32, 32, device), RunState(progress=progress)
    trainer.step(batch, state)  # constants are made, once
    with NoWait(), NoLook(batch.index):
        trainer.step(batch, state)
    assert state.loss is not None
    assert state.loss.shape == (4,)
