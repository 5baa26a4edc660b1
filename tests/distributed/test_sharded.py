"""A model in shards trains as a whole one does; its checkpoints go on in either form, on any number of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rank_runs import outcome, ranks, train, write_images
from torch.nn.attention import SDPBackend, sdpa_kernel

from selectivemae.core.errors import ConfigError
from selectivemae.distributed.group import Group
from selectivemae.engine.checkpoint import newest_checkpoint
from selectivemae.engine.recompute import recompute_activations
from selectivemae.models.create import create_model
from selectivemae.pretrain.config import PretrainConfig

MANY: dict[str, Any] = {
    "batch_size": 8, "samples_seen": 96, "epochs": None, "checkpoint_steps": 3, "prune_ratio": 0.4,
}  # fmt: skip


@pytest.mark.slow
def test_whole_and_sharded_by_turns_as_one_process_in_one_go(tmp_path: Path) -> None:
    images, out, notes = write_images(tmp_path / "images"), tmp_path / "run", tmp_path / "notes"
    (one,) = ranks(1, notes, train, images, tmp_path / "one", **MANY)
    assert one["result"]["steps"] == 12
    forms: list[dict[str, Any]] = []
    for world, step, shard in ((2, 3, True), (1, 7, True), (2, None, True)):  # one process has nothing to divide
        misbehave = {"what": "terminate", "rank": world - 1, "step": step}
        how = {"shard": shard, "recompute": shard, "micro_batch": 2, "misbehave": misbehave}
        done = ranks(world, notes, train, images, out, resume=True, **how, **MANY)
        assert [d.get("code") for d in done] == [143 if step else None] * world, done
        saved, problems = newest_checkpoint(out / "checkpoints")
        assert saved is not None
        assert problems == []
        assert (saved.folder / "shards").is_dir() == (world > 1)
        forms.append({k: (v.shape, v.dtype) for k, v in (saved.model | saved.optimizer).items()})
    assert forms[0] == forms[1] == forms[2]
    (got, ledger), (wanted, wanted_ledger) = outcome(out), outcome(tmp_path / "one")
    assert ledger == wanted_ledger
    assert list(got) == list(wanted)
    for name in ("loss", "grad_norm"):
        assert max(abs(got[s][name] - wanted[s][name]) / wanted[s][name] for s in wanted) < 0.02
    assert not list(out.rglob("*.tmp"))
    assert (out / "encoder.safetensors").is_file()


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    images, key = torch.randn(2, 3, 32, 32), torch.arange(2)
    gradients, kept = [], []
    for again in (False, True):
        model = create_model("vit_tiny_patch8", image_size=32, mask_ratio=0.5, decoder_depth=1)
        if again:
            recompute_activations(model)
        bytes_kept = 0

        def pack(x: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += x.nbytes
            return x

        plain = sdpa_kernel(SDPBackend.MATH)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), plain:
            loss = model(images, key, model.phase(0.5, "cpu")).mean()
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
        kept.append(bytes_kept)
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
    assert kept[1] < kept[0] / 3


def test_what_shards_cannot_do_is_said() -> None:
    from selectivemae.engine.sharded import shard

    with pytest.raises(ConfigError, match="--shard divides a model among several processes"):
        shard(torch.nn.Linear(2, 2), Group.single())
    with pytest.raises(ConfigError, match="--shard takes no --probe-data"):
        PretrainConfig.build({"shard": True, "probe_data": "somewhere"})
