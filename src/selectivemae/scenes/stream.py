"""Windows of a scene one batch after the other, read ahead by a thread; and the blended rows that come of them."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.scenes.blend import Blend, total_weights
from selectivemae.scenes.seam import Field
from selectivemae.scenes.source import Read, Scene
from selectivemae.scenes.windows import Area, Int64, meeting, reflected, window_starts

T = TypeVar("T")
A = TypeVar("A")
_AHEAD = 4  # batches


class Windows(NamedTuple):
    """Windows of one row: pixels (B, C, S, S) uint8, first columns (B,), first row; ``last`` closes the row.

    ``empty`` (S, width of the row's windows) is the row's mask of no data, given with its last batch.
    """

    images: Tensor
    columns: Int64
    row: int
    last: bool
    empty: NDArray[np.bool_] | None


class Rows(NamedTuple):
    """Finished rows of cells: ``sums`` (K, h, w) of ``Blend`` with the weights (h,) and (w,) that they hold, the mask
    of no data (h, w), and the first ``row`` of cells of the scene."""

    sums: Tensor
    down: Int64
    across: Int64
    empty: NDArray[np.bool_]
    row: int


@dataclass
class Clock:
    """Where the time goes, in seconds; ``network`` is what the model's function takes."""

    network: float = 0.0
    windows: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since the clock was made."""
        return time.perf_counter() - self.began


@dataclass(frozen=True)
class Cut:
    """How a scene is cut: side of the windows, pixels by which neighbours overlap, windows of a batch."""

    size: int
    overlap: int
    batch: int

    @property
    def stride(self) -> int:
        """Pixels from one window to the next."""
        return self.size - self.overlap

    def starts(self, scene: Scene, area: Area, *, anchored: bool = True) -> tuple[Int64, Int64]:
        """First rows and first columns of the scene's windows that meet an area."""
        column, row = scene.anchor if anchored else (0, 0)
        rows = window_starts(scene.height, row, self.size, self.stride)
        columns = window_starts(scene.width, column, self.size, self.stride)
        return (
            meeting(rows, self.size, area.y, area.y + area.height),
            meeting(columns, self.size, area.x, area.x + area.width),
        )


def ahead(source: Generator[T, None, None], depth: int = _AHEAD) -> Generator[T, None, None]:
    """The items of an iterator, made by a thread up to ``depth`` ahead; what it raises is raised here."""
    items: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(done: bool, item: T | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                items.put((done, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            with closing(source):
                for item in source:
                    if not put(False, item):
                        return
            put(True, None)
        except Exception as e:  # any: it is raised again by whoever waits for the items
            put(True, e)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            done, item = items.get()
            if isinstance(item, BaseException):
                raise item
            if done:
                return
            yield item  # type: ignore[misc]  # an item of T: only the last is None
    finally:
        stop.set()
        thread.join()


def read_windows(scene: Scene, cut: Cut, rows: Int64, columns: Int64) -> Generator[Windows, None, None]:
    """The windows at ``rows`` x ``columns`` from above, left to right; those without any data are left out."""
    with scene.reader() as read:
        for row in rows.tolist():
            strip, empty = read_strip(read, scene, row, cut.size, columns)
            offsets = columns - columns[0]
            filled = columns[[not empty[:, o : o + cut.size].all() for o in offsets.tolist()]]
            chunks = [filled[i : i + cut.batch] for i in range(0, max(len(filled), 1), cut.batch)]
            for number, chunk in enumerate(chunks, 1):
                last = number == len(chunks)
                views = [strip[:, :, c : c + cut.size] for c in (chunk - columns[0]).tolist()]
                images = np.stack(views) if views else np.empty((0, len(strip), cut.size, cut.size), np.uint8)
                yield Windows(torch.from_numpy(images), chunk, row, last, empty if last else None)


def read_strip(
    read: Read, scene: Scene, row: int, size: int, columns: Int64
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels (C, size, w) of all windows of a row, mirrored beyond the scene, and the mask of no data (size, w), which
    is set there."""
    width = int(columns[-1] - columns[0]) + size
    down = reflected(row, size, scene.height)
    across = reflected(int(columns[0]), width, scene.width)
    top, left = int(down.min()), int(across.min())
    area = Area(left, top, int(across.max()) - left + 1, int(down.max()) - top + 1)
    pixels, empty = read(area, None)
    inside = _inside(row, size, scene.height)[:, None] & _inside(int(columns[0]), width, scene.width)[None, :]
    if inside.all():
        return pixels, empty
    place = (down - top)[:, None], (across - left)[None, :]
    return np.ascontiguousarray(pixels[:, place[0], place[1]]), empty[place] | ~inside


def _inside(start: int, count: int, length: int) -> NDArray[np.bool_]:
    place = np.arange(start, start + count)
    return (place >= 0) & (place < length)


def in_turns(
    functions: Sequence[Callable[[Tensor], A]], windows: Iterator[Windows], clock: Clock
) -> Generator[tuple[Windows, A], None, None]:
    """Batches with what a function says of them, in order; several functions (one a device) take turns at once."""

    def run(function: Callable[[Tensor], A], images: Tensor) -> A:
        began = time.perf_counter()
        with torch.inference_mode():  # is a matter of each thread
            out = function(images)
        if isinstance(out, Tensor) and out.is_cuda:
            torch.cuda.synchronize(out.device)
        clock.network += time.perf_counter() - began
        clock.windows += len(images)
        return out

    with ThreadPoolExecutor(len(functions), thread_name_prefix="device") as pool:
        waiting: deque[tuple[Windows, Future[A]]] = deque()
        for number, batch in enumerate(windows):
            waiting.append((batch, pool.submit(run, functions[number % len(functions)], batch.images)))
            # One more than there are devices is under way: none of them waits for what is done with the answers.
            if len(waiting) > len(functions):
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def values_of(which: Field, images: Tensor) -> Tensor:
    """What a field says of windows; nothing of none."""
    if len(images):
        return which.run(images)
    return torch.zeros((0, which.bands, which.size // which.cell, which.size // which.cell))


def blended_rows(scene: Scene, fields: Sequence[Field], cut: Cut, area: Area, clock: Clock) -> Iterator[Rows]:
    """The blended values of an area of a scene, as finished rows of cells from above; together exactly the area.

    Windows may look beyond the area, not beyond the scene. Where a cell is more than a pixel, the area must begin at
    whole cells, the overlap is a multiple of the cell, and windows are counted from the scene's corner.
    """
    first = fields[0]
    cell, cells, overlap = first.cell, first.size // first.cell, cut.overlap // first.cell
    rows, columns = cut.starts(scene, area, anchored=cell == 1)
    width = int(columns[-1] - columns[0]) // cell + cells
    west = (area.x - int(columns[0])) // cell
    count = -(-area.width // cell)
    begin, end = area.y // cell, -(-(area.y + area.height) // cell)
    across = total_weights(columns // cell, cells, overlap, area.x // cell, area.x // cell + count)
    down = total_weights(rows // cell, cells, overlap, begin, end)
    stride = cut.stride // cell
    blend: Blend | None = None
    with closing(ahead(read_windows(scene, cut, rows, columns))) as windows:
        for batch, values in in_turns([partial(values_of, f) for f in fields], windows, clock):
            if blend is None:
                blend = Blend(first.bands, cells, width, overlap, first.bound, values.device, wide=cell > 1)
            blend.add(values, (batch.columns - columns[0]) // cell)
            if batch.empty is None:
                continue
            top = batch.row // cell
            taken = blend.take(cells if batch.row == rows[-1] else stride)
            empty = _cell_mask(batch.empty, cell)[: taken.shape[1]]
            low, high = max(begin - top, 0), min(end - top, taken.shape[1])
            if low < high:
                cut_out = slice(low, high), slice(west, west + count)
                weights = down[top + low - begin : top + high - begin]
                yield Rows(taken[:, *cut_out], weights, across, empty[cut_out], top + low)


def _cell_mask(empty: NDArray[np.bool_], cell: int) -> NDArray[np.bool_]:
    """No data by cells: where no pixel of the cell has any."""
    if cell == 1:
        return empty
    height, width = empty.shape
    return np.logical_and.reduce(empty.reshape(height // cell, cell, width // cell, cell), axis=(1, 3))
