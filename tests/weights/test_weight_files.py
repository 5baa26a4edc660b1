"""Reading weight files: every container gives the same tensors; what is unsafe or damaged is refused by name."""

import argparse
import json
import os
import sys
import types
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from selectivemae.core.errors import WeightsError
from selectivemae.weights.files import read_metadata, read_state_dict

STATE = {"norm.weight": torch.arange(6.0), "proj.weight": torch.arange(12.0).reshape(3, 4)}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    assert same(read_state_dict(path), STATE)
    assert read_metadata(path) == {}


def test_safetensors_and_their_metadata(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors", metadata={"architecture": "vit"})
    assert same(read_state_dict(tmp_path / "w.safetensors"), STATE)
    assert read_metadata(tmp_path / "w.safetensors") == {"architecture": "vit"}


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "teacher", "model_ema", "module"])
def test_wrappers_are_opened(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: STATE, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"), STATE)


def test_nested_wrappers_and_preference(tmp_path: Path) -> None:
    torch.save({"student": {"a": torch.ones(1)}, "teacher": {"state_dict": STATE}}, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"), STATE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_back_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"model": {key: value.to(dtype) for key, value in STATE.items()}}, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"), STATE)
    save_file({key: value.to(dtype) for key, value in STATE.items()}, tmp_path / "w.safetensors")
    assert same(read_state_dict(tmp_path / "w.safetensors"), STATE)


def test_a_namespace_beside_the_tensors_is_accepted(tmp_path: Path) -> None:
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1e-3, out=Path("/x"))}, tmp_path / "w.pth")
    assert same(read_state_dict(tmp_path / "w.pth"), STATE)


def test_settings_of_other_packages_are_read_as_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = CfgNode(MODEL=CfgNode(TYPE="swin"))
    config.__dict__["__immutable__"] = True
    loss = numpy.float64(0.5)
    torch.save({"model": STATE, "config": config, "loss": loss}, tmp_path / "w.pth")
    monkeypatch.delitem(sys.modules, "yacs.config")
    assert same(read_state_dict(tmp_path / "w.pth"), STATE)


class Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    bad = tmp_path / "bad.pth"
    torch.save({"model": STATE, "x": Evil(str(tmp_path / "made"))}, bad, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"bad\.pth.*refused.*posix\.mkdir") as caught:
        read_state_dict(bad)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="Linear"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_truncated_files_are_named(tmp_path: Path, kind: str, keep: float) -> None:
    whole = {"a": torch.randn(64, 64), "b": torch.randn(64, 64)}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(whole, path)
    else:
        torch.save(whole, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(WeightsError, match=r"w\.(pth|safetensors)") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<!doctype html><html>not found</html>", b"version https://git-lfs", b"\0" * 64])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pth"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"epoch": 3, "args": argparse.Namespace()}])
def test_an_empty_state_dict_is_said(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no tensors"):
        read_state_dict(tmp_path / "w.pth")


def write_shards(folder: Path, kind: str) -> Path:
    names = {}
    for number, (key, value) in enumerate(STATE.items()):
        if kind == "safetensors":
            name = f"model-{number}.safetensors"
            save_file({key: value}, folder / name)
        else:
            name = f"pytorch_model-{number}.bin"
            torch.save({key: value}, folder / name)
        names[key] = name
    index = folder / ("model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_weights(tmp_path: Path, kind: str) -> None:
    index = write_shards(tmp_path, kind)
    assert same(read_state_dict(index), STATE)
    assert same(read_state_dict(tmp_path), STATE)


def test_bad_shards(tmp_path: Path) -> None:
    index = write_shards(tmp_path, "safetensors")
    table = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": table["weight_map"] | {"other": "model-0.safetensors"}}))
    with pytest.raises(WeightsError, match="other"):
        read_state_dict(index)
    index.write_text(json.dumps({"weight_map": {"other": "../secret.safetensors"}}))
    with pytest.raises(WeightsError, match="outside"):
        read_state_dict(index)
    index.write_text(json.dumps({"weight_map": {"other": "absent.safetensors"}}))
    with pytest.raises(WeightsError, match=r"absent\.safetensors"):
        read_state_dict(index)
    index.write_text("{}")
    with pytest.raises(WeightsError, match="weight_map"):
        read_state_dict(index)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weight file"):
        read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="no weights in this folder"):
        read_state_dict(tmp_path)
