"""How the gradients of all processes come together.

Each process has an equal part of the global batch. Its loss is multiplied by the number of processes, since torch
averages gradients over them: what comes out is the gradient of the global batch, as one process would have it.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from selectivemae.core.errors import ConfigError
from selectivemae.data.batch import Batch
from selectivemae.distributed.group import Group
from selectivemae.engine.state import Objective, StepOutput


class Alone:
    """One process: nothing comes together."""

    trial = False

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def forward(self, part: Batch, progress: float, last: bool) -> StepOutput:
        """The objective's step on a micro-batch; ``last`` says that the step's gradient is whole after its backward."""
        return self.objective.step(part, progress)

    def settle(self, parts: int) -> None:
        """Called once after the first step that fitted into the memory of all, in ``parts`` micro-batches."""


class Replicas(Alone):
    """Every process holds the whole model (DistributedDataParallel).

    The first step is a trial that only this process computes, so that one which runs out of memory keeps nobody
    waiting. Then DDP takes over: gradients travel in buckets while the backward pass goes on, and only with the last
    micro-batch of a step.
    """

    def __init__(self, objective: Objective, group: Group, bf16: bool = False) -> None:
        super().__init__(objective)
        self.group, self.bf16 = group, bf16
        self._ddp: DistributedDataParallel | None = None

    @property
    def trial(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether this process still computes by itself."""
        return self._ddp is None

    def forward(self, part: Batch, progress: float, last: bool) -> StepOutput:
        """The objective's step, through DDP once the trial is over."""
        if self._ddp is None:
            return self.objective.step(part, progress)
        with nullcontext() if last else self._ddp.no_sync():
            return StepOutput(*self._ddp(part, progress))

    def settle(self, parts: int) -> None:
        """Average the trial's gradients, and begin to work together."""
        average_gradients(self.objective.model, self.group.world)
        step = _Step(self.objective)
        # Buffers are constants, or a process's own statistics: they need not travel with every step.
        buffers = [name for name, _ in step.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, buffers)
        ddp = DistributedDataParallel(
            step,
            gradient_as_bucket_view=True,
            static_graph=parts == 1,  # a static graph cannot accumulate without synchronising
        )
        if self.bf16:
            ddp.register_comm_hook(self.group.world, reduce_as_bf16)
        self._ddp = ddp


class Shards(Alone):
    """Every process holds a part of the model (``engine.sharded`` has divided it), and borrows a block at a time."""

    def forward(self, part: Batch, progress: float, last: bool) -> StepOutput:
        """The objective's step; gradients travel with the last micro-batch of a step."""
        self.objective.model.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        return self.objective.step(part, progress)


class _Step(nn.Module):
    """An objective's step as a module, for DDP."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model
        self._objective = objective

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        out = self._objective.step(batch, progress)
        return out.loss, dict(out.scalars)


def reduce_as_bf16(world: int, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of a bucket of gradients over ``world`` processes, which travels as bfloat16 (torch's own hook of this
    kind is for GPUs alone)."""
    whole = bucket.buffer()
    work: Any = dist.all_reduce(whole.to(torch.bfloat16).div_(world), async_op=True)
    return work.get_future().then(lambda done: whole.copy_(done.value()[0]))


def average_gradients(model: nn.Module, world: int) -> None:
    """Mean of every gradient over all processes, one message a kind of number."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([g.reshape(-1) for g in gradients]) / world
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def parallel(objective: Objective, group: Group, bf16: bool) -> Alone:
    """How the gradients of ``group`` come together; ``bf16`` lets them travel as bfloat16."""
    if group.world == 1:
        return Alone(objective)
    sharded = hasattr(objective.model, "set_requires_gradient_sync")
    return Shards(objective) if sharded else Replicas(objective, group, bf16)


def check_shard(group: Group) -> None:
    """ConfigError where a model cannot be divided: the processes are fewer than two, or torch is too old to save what
    comes of it."""
    if group.world == 1:
        raise ConfigError("--shard divides a model among several processes: start them with torchrun, or leave it out")
    from torch.distributed import checkpoint  # slow to import, and rarely needed

    if not hasattr(checkpoint, "HuggingFaceStorageWriter"):
        raise ConfigError(f"--shard needs a newer torch than {torch.__version__}")


def same_weights(model: nn.Module, group: Group) -> None:
    """Give every process the weights and buffers of process 0; on the device where they lie."""
    if group.world > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
