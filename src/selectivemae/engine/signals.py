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
        if self.received is not None:  # a second one means it
            raise Interrupted("stopped at once; the last checkpoint is what there is", 128 + number)
        self.received = number

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
