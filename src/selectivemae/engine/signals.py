"""SIGTERM and Ctrl-C ask for an end after the running step; the state is saved before the program leaves."""

import signal
from types import FrameType, TracebackType
from typing import Self

from selectivemae.core.errors import Interrupted


class StopSignal:
    """Context in which SIGINT and SIGTERM are noted in ``received`` instead of raised."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C means it. SIGTERM is what launchers send, and repeat while the state is being saved.
        if self.received is not None and number == signal.SIGINT:
            raise Interrupted("stopped at once; the last checkpoint is what there is", 128 + number)
        self.received = self.received or number

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: whoever runs us handles signals
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
