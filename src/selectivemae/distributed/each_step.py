"""What processes exchange at every step, in two messages that nobody waits for longer than needed.

The outcome of a step (losses, weights, samples) is gathered on the device, behind the step's own work. What decides
about the next step (signals, the clock, reports that wait) is agreed on between the hosts while the device works:
each step reads what was said at the step before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from selectivemae.distributed.group import Group


class Agreement:
    """The largest of what each process says, on all of them, one step later.

    ``exchange`` returns what was agreed on at the call before, zeros at first, and begins the next round; all processes
    call it equally often. ``finish`` ends the last round.
    """

    def __init__(self, group: Group, size: int) -> None:
        self.group = group
        self._agreed = [0] * size
        self._work: Any = None
        self._values = torch.zeros(0)

    def exchange(self, values: Sequence[int]) -> list[int]:
        """Say ``values`` (64 bits, signed); the largest of those said at the call before."""
        agreed = self.finish()
        self._values = torch.tensor(list(values), dtype=torch.int64)
        self._work = dist.all_reduce(self._values, dist.ReduceOp.MAX, async_op=True)
        return agreed

    def finish(self) -> list[int]:
        """The largest of what was said last."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            self._agreed = self._values.tolist()
        return self._agreed


def gather_outcome(
    group: Group, index: Tensor, loss: Tensor, weight: Tensor, ledger: int, scalars: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """The outcome of the global batch from those of its parts, in the order of the global batch, on all processes.

    ``index`` (B,) int64, ``loss`` and ``weight`` (B,) fp32, ``ledger`` the sum of this part's samples (64 bits); rank k
    of W has the places k, k + W … Returns (W B,) index, loss and weight, (W,) ledger sums, and the means of the
    scalars. All on the device, in one message.
    """
    device, B, W = loss.device, len(loss), group.world
    whole = torch.cat([index, torch.tensor([_signed(ledger)])]).to(device, non_blocking=True)
    named = [scalars[name].detach().float() for name in sorted(scalars)]
    floats = torch.cat([loss.float(), weight.float(), *(s.reshape(1) for s in named)])
    message = torch.cat([whole.view(torch.int32), floats.view(torch.int32)])
    parts = [torch.empty_like(message) for _ in range(W)]
    dist.all_gather(parts, message)
    got = torch.stack(parts)
    integers = got[:, : 2 * (B + 1)].contiguous().view(torch.int64)  # (W, B + 1)
    figures = got[:, 2 * (B + 1) :].contiguous().view(torch.float32)  # (W, 2 B + scalars)
    indices, losses, weights = (t.T.reshape(-1) for t in (integers[:, :B], figures[:, :B], figures[:, B : 2 * B]))
    means = figures[:, 2 * B :].mean(dim=0)
    return indices, losses, weights, integers[:, B], dict(zip(sorted(scalars), means, strict=True))


def outcome_bytes(batch: int, scalars: int) -> int:
    """Bytes of one process's message in ``gather_outcome`` for ``batch`` samples of its own."""
    return 8 * (batch + 1) + 4 * (2 * batch + scalars)


def _signed(bits: int) -> int:
    """64 bits read as a signed integer."""
    return bits - (1 << 64) if bits >> 63 else bits
