"""A run whose images grow, stopped after they grew or before, goes on as if it had never stopped."""

from pathlib import Path

import pytest
from tiny_runs import STEPS, losses, same_weights, train, write_images

from selectivemae.data.batch import Batch
from selectivemae.engine.state import StepOutput
from selectivemae.pretrain.objective import PretrainObjective

GROWING = {"early_sizes": (16, 24), "early_share": 0.6}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("stop", [7, 17])
def test_resume_is_exact_across_a_change_of_size(images: Path, tmp_path: Path, monkeypatch, stop: int) -> None:
    train(images, tmp_path / "whole", **GROWING)
    step, seen = PretrainObjective.step, []

    def stopping(self: PretrainObjective, batch: Batch, progress: float) -> StepOutput:
        seen.append(self.early.at(progress, 32))
        if len(seen) > stop:
            raise KeyboardInterrupt
        return step(self, batch, progress)

    monkeypatch.setattr(PretrainObjective, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "run", **GROWING)
    monkeypatch.undo()
    assert seen == ([16] * 8 + [24] * 7 + [32] * 10)[: stop + 1]
    assert train(images, tmp_path / "run", resume=True, **GROWING).steps == STEPS
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert same_weights(tmp_path / "run", tmp_path / "whole")
