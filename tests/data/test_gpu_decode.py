"""Decoding on the device, with the CPU's decoder in the GPU's place: everything but nvJPEG itself."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from selectivemae.core.errors import ConfigError
from selectivemae.data.augment import RandomCrop
from selectivemae.data.decode import decode
from selectivemae.data.gpu import OnDevice, nvjpeg
from selectivemae.data.loader import Loader
from selectivemae.data.pixels import Task
from selectivemae.data.stores import open_store
from selectivemae.data.workers import Inline


def jpegs(files: Sequence[bytes]) -> list[Tensor]:
    """As nvJPEG does: all, or a RuntimeError."""
    if any(file.endswith(b"cut") for file in files):
        raise RuntimeError("nvjpeg: bad input")
    return [torch.from_numpy(decode(file)).permute(2, 0, 1) for file in files]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 11, 3), np.uint8)
        image = Image.fromarray(pixels).resize((90 + number, 70), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number:02}.{'png' if number == 3 else 'jpg'}", quality=95)
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "12.jpg")
    (tmp_path / "13.jpg").write_bytes(b"no image")
    return tmp_path


@pytest.mark.parametrize("broken", [False, True])
def test_the_same_crops_as_workers_make(images: Path, broken: bool) -> None:
    if broken:
        file = io.BytesIO()
        Image.effect_noise((80, 80), 50).convert("RGB").save(file, "JPEG")
        (images / "14.jpg").write_bytes(file.getvalue()[:-400] + b"cut")
    task = Task(open_store(images), 48, 3, RandomCrop(turns="all"))
    index, key = np.arange(len(task.store)), np.arange(len(task.store)) * 7919
    wanted, source = Inline(task), OnDevice(task, torch.device("cpu"), jpegs)
    for one in (wanted, source):
        one.submit(index, key)
        one.submit(index[::-1].copy(), key)
    for _ in range(2):
        (there, why), (here, because) = wanted.collect(), source.collect()
        assert why.tolist() == because.tolist()
        # 8-bit against float resampling: both round, at most two levels apart.
        assert (there.int() - here.int()).abs().max() <= 2
    source.close()
    assert sorted(set(why.tolist())) == sorted(
        {b"", b"uniform", b"not_an_image"} | ({b"truncated"} if broken else set())
    )


def test_where_it_cannot_be(images: Path) -> None:
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        nvjpeg(torch.device("cpu"))
    grey = Task(open_store(images), 48, 1, RandomCrop())
    with pytest.raises(ConfigError, match="3 channels"):
        Loader(grey, 4, 0, gpu_decode=True)
