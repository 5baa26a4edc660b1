"""Checkpoints: read back as written, whole or not at all."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from selectivemae.core.errors import OutputError
from selectivemae.engine import checkpoint
from selectivemae.engine.checkpoint import (
    newest_checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from selectivemae.engine.optim import adamw, decay_groups


def trained(steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = adamw(decay_groups(model.named_parameters(), 0.1), (0.9, 0.95))
    return model, advance(model, optimizer, steps)


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.arange(6.0).reshape(2, 3) + step).square().sum().backward()
        optimizer.step()
    return optimizer


def save(root: Path, step: int = 1) -> Path:
    model, optimizer = trained()
    state = {"step": step, "loss": float("nan")}
    return save_checkpoint(
        root, step, model.state_dict(), optimizer_tensors(optimizer, model), {}, state, {"format": "pt"}
    )


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = save(tmp_path)
    assert sorted(f.name for f in folder.iterdir()) == [
        "SHA256SUMS", "model.safetensors", "optimizer.safetensors", "state.json", "stream.safetensors",
    ]  # fmt: skip
    assert (tmp_path / "latest").read_text() == "step-00000001\n"
    other = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    again = adamw(decay_groups(other.named_parameters(), 0.1), (0.9, 0.95))
    read = read_checkpoint(folder)
    other.load_state_dict(read.model)
    restore_optimizer(again, other, read.optimizer)
    advance(model, optimizer, 3)
    advance(other, again, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_others_check_the_sums(tmp_path: Path) -> None:
    result = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=save(tmp_path), check=False)
    assert result.returncode == 0


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"])
def test_every_byte_counts(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    content = (folder / name).read_bytes()
    for place in range(0, len(content), max(len(content) // 40, 1)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        (folder / name).write_bytes(changed)
        found, problems = newest_checkpoint(tmp_path)
        assert found is not None
        assert found.folder.name == "step-00000001", place
        assert len(problems) == 1
    (folder / name).write_bytes(content[:-1])
    assert newest_checkpoint(tmp_path)[1] != [] or name == "SHA256SUMS"  # its last newline says nothing
    (folder / name).unlink()
    assert f"{name} is missing" in newest_checkpoint(tmp_path)[1][0]


@pytest.mark.parametrize("place", ["write", "rename"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    save(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "write":
        monkeypatch.setattr(checkpoint, "save_file", full)
    else:
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"no space left on the disk of .*step-00000002: free some") as error:
        save(tmp_path, 2)
    assert error.value.exit_code == 2
    monkeypatch.undo()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["latest", "step-00000001"]
    found, problems = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.state["step"], problems) == (1, [])


def test_an_optimizers_state_lies_under_the_parameters_names(tmp_path: Path) -> None:
    model, optimizer = trained(steps=3)
    tensors = optimizer_tensors(optimizer, model)
    names = [n for n, _ in model.named_parameters()]
    assert sorted(tensors) == sorted(f"{kind}.{n}" for kind in ("exp_avg", "exp_avg_sq", "step") for n in names)
    assert all(tensors[f"step.{n}"].item() == 3 for n in names)
