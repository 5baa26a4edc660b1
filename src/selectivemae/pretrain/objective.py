"""What pre-training asks of the engine: a masked autoencoder's loss for each image of a batch."""

import importlib.util
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from selectivemae.core.errors import ConfigError, TrainingError
from selectivemae.data.batch import Batch
from selectivemae.engine.optim import decay_groups
from selectivemae.engine.precision import attention_kernel
from selectivemae.engine.state import StepOutput
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.pretrain.config import Compile


@dataclass(frozen=True)
class EarlySizes:
    """Smaller images to begin with: ``sizes`` in turn, each for an equal part of the first ``share`` of training."""

    sizes: tuple[int, ...] = ()
    share: float = 0.5

    def at(self, progress: float, full: int) -> int:
        """Side of the images at ``progress`` in [0, 1]; ``full`` after the early share."""
        if not self.sizes or progress >= self.share:
            return full
        return self.sizes[min(int(progress / self.share * len(self.sizes)), len(self.sizes) - 1)]


class PretrainObjective:
    """Normalise on the device, select, encode, reconstruct, compare.

    ``compiled``: ``on`` makes fused kernels of the whole step (torch.compile), ``graphs`` replays them as CUDA graphs.
    ConfigError where that cannot be, or where ``early`` sizes do not fit the model.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        weight_decay: float,
        *,
        early: EarlySizes | None = None,
        compiled: Compile = "off",
    ) -> None:
        self._model = model
        self.weight_decay = weight_decay
        self.early = early or EarlySizes()
        for side in self.early.sizes:
            model.also_at(side, side)
        self._compiled, self._graphs = compiled != "off", compiled == "graphs"
        self._batch: int | None = None
        if compiled != "off":
            check_compiler(model.cls_token.device, self._graphs)
            # One graph a size, made when it first comes; in place, so that weights keep their names.
            mode = "reduce-overhead" if self._graphs else None
            model.compile(fullgraph=True, dynamic=False, mode=mode)

    @property
    def model(self) -> MaskedAutoencoder:
        """The masked autoencoder."""
        return self._model

    def parameter_groups(self) -> list[dict]:
        """Weight decay on matrices only."""
        return decay_groups(self.model.named_parameters(), self.weight_decay)

    def step(self, batch: Batch, progress: float) -> StepOutput:
        """Loss of each image (B,) fp32."""
        model = self.model
        images = shrink(batch.images, self.early.at(progress, model.config.height))
        if self._graphs:
            self._same_batch(len(images))
        with attention_kernel(model.longest_sequence, images.device), self._any_number_of_graphs():
            loss = model(images, batch.key, model.phase(progress, images.device))
        # A graph's outputs are overwritten by its next replay; the loss is read steps later.
        return StepOutput(loss.clone() if self._graphs else loss)

    def _any_number_of_graphs(self) -> AbstractContextManager:
        """Torch makes eight graphs of a function and no more: too few for image sizes times the batches that are
        tried until one fits, or for several models in one program."""
        return torch._dynamo.config.patch(recompile_limit=64) if self._compiled else nullcontext()

    def _same_batch(self, size: int) -> None:
        """A graph's gradients lie where its next replay writes: the batch must come in one piece, always."""
        if self._batch not in (None, size):
            raise TrainingError(
                f"--compile graphs wants every batch in one piece, but {self._batch} images did not fit the memory at "
                "a time: use --compile on, or a smaller batch size"
            )
        self._batch = size


def shrink(images: Tensor, side: int) -> Tensor:
    """uint8 images (B, C, H, W) at (B, C, side, side), antialiased; themselves where they have that size."""
    if images.shape[-2:] == (side, side):
        return images
    smaller = torch.nn.functional.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return smaller.round_().to(torch.uint8)


def check_compiler(device: torch.device, graphs: bool = False) -> None:
    """ConfigError unless torch.compile finds what it needs: a C++ compiler for a CPU, Triton for a GPU."""
    if device.type == "cpu":
        if graphs:
            raise ConfigError("--compile graphs needs a GPU (CUDA graphs): use --compile on")
        if not shutil.which(os.environ.get("CXX", "")) and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            raise ConfigError(
                "--compile on a CPU needs a C++ compiler: install g++ or clang++, or leave the option out"
            )
    elif importlib.util.find_spec("triton") is None:
        raise ConfigError("--compile on a GPU needs Triton, which comes with torch's CUDA builds: reinstall torch")
