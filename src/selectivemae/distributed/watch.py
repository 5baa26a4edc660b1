"""A thread that tells the others how far this process is, and ends it when another has died or hangs.

A process that waits for others cannot be interrupted from Python, so the thread ends it at once, with one line that
names the culprit: what lies on disk by then is the last checkpoint.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Beat:
    """How far a process is: the number of places it has come by, and the last named one."""

    count: int = 0
    step: int = 0
    doing: str = "beginning"
    alone: bool = False  # at work that the others wait for, however long it takes
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: float = field(default_factory=time.monotonic)

    def at(self, step: int, doing: str) -> None:
        """Note that this process has come to a place."""
        self.step, self.doing = step, doing
        self.passed()

    def passed(self) -> None:
        """Note that this process has come by a place that needs no name; all come by the same ones."""
        self.since = time.monotonic()
        self.count += 1

    @contextmanager
    def by_itself(self, doing: str) -> Iterator[None]:
        """Work that this process does alone, as long as it takes: nobody is taken to hang meanwhile."""
        before, self.doing, self.alone = self.doing, doing, True
        try:
            yield
        finally:
            self.doing, self.alone, self.since = before, False, time.monotonic()


def suspects(beats: dict[int, dict[str, Any] | None], ages: dict[int, float], stale: float) -> list[int]:
    """Which processes hold up the others: those whose beats are missing or older than ``stale`` seconds, else those
    that have come by the fewest places, else (all stand at the same place) none."""
    silent = [rank for rank, beat in beats.items() if beat is None or ages[rank] > stale]
    if silent:
        return silent
    counts = {rank: beat["count"] for rank, beat in beats.items() if beat is not None}
    behind = [rank for rank, count in counts.items() if count == min(counts.values())]
    return behind if len(behind) < len(counts) else []


class Watch:
    """Sends this process's beat through a store of torch's every ``timeout / 8`` seconds (at most 10), and looks at
    those of the others when it has stood still for ``timeout`` seconds itself.

    ``end`` is called with the line to say (empty on all but one process) when the job cannot go on.
    """

    def __init__(
        self, store: Any, rank: int, world: int, beat: Beat, timeout: float, end: Callable[[str], None] | None = None
    ) -> None:
        self.store, self.rank, self.world, self.beat, self.timeout = store, rank, world, beat, timeout
        self.every = min(timeout / 8, 10.0)
        self.end = end or _leave
        self._seen: dict[int, tuple[int, float]] = {}
        self._failed = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._send()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _send(self) -> None:
        beat = self.beat
        said = {name: getattr(beat, name) for name in ("count", "step", "doing", "alone", "host", "pid")}
        self.store.set(f"beat/{self.rank}", json.dumps(said | {"sent": time.monotonic_ns()}))

    def _run(self) -> None:
        number = 0
        while not self._stopped.wait(self.every):
            try:
                self._send()
                self._heed()
                stands = time.monotonic() - self.beat.since > self.timeout
                number = number + 1 if stands else 0
                if stands:
                    self._look(number)
            except RuntimeError as e:  # torch's errors of the network are all of them RuntimeErrors
                # The main thread may come to know it too and say it better; one that waits for a GPU does not.
                if not self._stopped.wait(max(self.timeout / 4, 3.0)):
                    why = f"process {self.rank} no longer reaches process 0 ({str(e).splitlines()[0]}): ended"
                    self.end(why if self.rank == 1 else "")
                return

    def _heed(self) -> None:
        """Leave some time after another process has said that it failed: the main thread may wait for it for ever."""
        if self.store.check(["failed"]):
            self._failed += 1
            if self._failed > 3:
                self.end("")

    def _look(self, number: int) -> None:
        """Look once to know the beats, and again (at the next call) to see which of them still come."""
        now = time.monotonic()
        beats: dict[int, dict[str, Any] | None] = {}
        ages: dict[int, float] = {}
        for rank in range(self.world):
            key = f"beat/{rank}"
            beats[rank] = beat = json.loads(self.store.get(key)) if self.store.check([key]) else None
            if beat is not None:
                if rank not in self._seen or self._seen[rank][0] != beat["sent"]:
                    self._seen[rank] = (beat["sent"], now)
                ages[rank] = now - self._seen[rank][1]
        if any(beat and beat["alone"] and ages[rank] <= 2.5 * self.every for rank, beat in beats.items()):
            self.beat.since = now  # the wait for it does not count
            return
        if number <= 3:  # a beat that does not change for three of our own is no longer sent
            return
        found = suspects(beats, ages, 2.5 * self.every)
        well = [rank for rank in range(self.world) if rank not in found]
        # One of those that are well says it; where all are at the same place, or this one alone is left, it is 0.
        speaker = well[0] if well else 0
        self.end(self._line(found, beats) if self.rank == speaker else "")

    def _line(self, found: list[int], beats: dict[int, dict[str, Any] | None]) -> str:
        if not found:
            return (
                f"all {self.world} processes stand still in step {self.beat.step} ({self.beat.doing}) for over "
                f"{self.timeout:g} s: the network or a device between them does not answer; go on with --resume"
            )
        said = []
        for rank in found[:4]:
            beat = beats[rank]
            where = f"on {beat['host']}, pid {beat['pid']}, in step {beat['step']} ({beat['doing']})" if beat else ""
            said.append(f"process {rank} {where}".strip())
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        return f"{'; '.join(said)}{more} has not moved for over {self.timeout:g} s: ended; go on with --resume"


def _leave(line: str) -> None:
    """End this process at once, whatever its main thread waits for."""
    if line:
        print(f"selectivemae: {line}", file=sys.stderr, flush=True)
    os._exit(2)
