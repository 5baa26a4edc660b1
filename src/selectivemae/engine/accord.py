"""What all processes of a training agree on between two steps: whether to stop, what time it is, whom to hear.

One process decides by itself. Several agree on what each said at the step before, so that nobody waits and all stop
after the same step; the clock is that of process 0.
"""

from collections.abc import Callable

from selectivemae.distributed.each_step import Agreement
from selectivemae.distributed.gather import gather_data
from selectivemae.distributed.group import Group
from selectivemae.engine.signals import StopSignal


class Post:
    """Brings reports of samples (id, reason) from all processes to ``receive`` of process 0."""

    def __init__(self, group: Group, receive: Callable[[str, str], None]) -> None:
        self.group, self.receive = group, receive
        self.waiting: list[tuple[str, str]] = []

    def __call__(self, sample: str, reason: str) -> None:
        """Report a sample: at once where there is one process, else it waits for ``deliver``."""
        if self.group.world == 1:
            self.receive(sample, reason)
        else:
            self.waiting.append((sample, reason))

    def deliver(self) -> None:
        """Hand over what waits; all processes come together for it."""
        mine, self.waiting = self.waiting, []
        for reports in gather_data(self.group, mine):
            if self.group.is_main:
                for sample, reason in reports:
                    self.receive(sample, reason)


class Accord:
    """The agreements of one training. ``signal`` is the one that ends it, once it is agreed on."""

    def __init__(self, group: Group, stop: StopSignal, post: Post | None, elapsed: float) -> None:
        self.group, self.stop, self.post = group, stop, post
        self.signal: int | None = None
        self._own = self._agreed = elapsed
        self._agreement = Agreement(group, 3) if group.world > 1 else None

    def clock(self, elapsed: float) -> float:
        """The seconds of training that count; ``elapsed`` are those of this process."""
        self._own = elapsed
        return elapsed if self._agreement is None else self._agreed

    def stopped(self) -> bool:
        """Whether training is to end before the next step. Called once a step, by all."""
        if self._agreement is None:
            self.signal = self.stop.received
            return self.signal is not None
        clock = round(self._own * 1e6) if self.group.is_main else 0
        waiting = len(self.post.waiting) if self.post else 0
        signal, clock, waiting = self._agreement.exchange([self.stop.received or 0, clock, waiting])
        self._agreed = max(self._agreed, clock / 1e6)
        self.signal = signal or None
        if waiting and self.post:
            self.post.deliver()
        return self.signal is not None

    def finish(self) -> None:
        """The last agreement, after which there is no step; what still waits is delivered."""
        if self._agreement is not None:
            self._agreement.finish()
            self._agreement = None
            if self.post:
                self.post.deliver()
