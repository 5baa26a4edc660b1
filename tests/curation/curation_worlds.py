"""Small worlds of pictures for the tests of curation, and jobs that go wrong on purpose."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image


def scenery(seed: int, height: int = 96, width: int = 96) -> np.ndarray:
    """A random picture (H, W, 3) uint8 of waves and grain; another seed is another picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    out = np.zeros((height, width, 3))
    for _ in range(14):
        fx, fy, phase = rng.uniform(0.5, 7, 3)
        out += np.sin(2 * np.pi * (fx * x / width + fy * y / height) + phase)[..., None] * rng.normal(size=3)
    out = 128 + 18 * out + rng.normal(size=out.shape) * 4
    return out.clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, quality: int = 92) -> Path:
    """Save as JPEG or PNG by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": quality} if path.suffix == ".jpg" else {}))
    return path


def folder(root: Path, count: int, first: int = 0) -> Path:
    """``count`` different pictures."""
    for number in range(first, first + count):
        save(root / f"{number % 3}" / f"p{number:04d}.jpg", scenery(number))
    return root


@dataclass(frozen=True)
class Numbers:
    """A task over numbers, each written to its own line; some kill, hang or fail."""

    name: str
    start: int
    stop: int
    deadly: tuple[int, ...] = ()
    slow: tuple[int, ...] = ()
    once: str = ""
    skip: dict[int, str] = field(default_factory=dict)

    @property
    def members(self) -> range:
        return range(self.start, self.stop)

    def only(self, members: Sequence[int]) -> "Numbers":
        return replace(self, name=f"{self.name}-part", start=members[0], stop=members[-1] + 1)

    def without(self, member: int, reason: str) -> "Numbers":
        return replace(self, skip=self.skip | {member: reason})


def write_numbers(task: Numbers, place: Path, mark) -> dict[str, int]:
    """Job: dies at ``deadly`` numbers, hangs at ``slow`` ones, dies once if ``once`` names a file not there yet."""
    lines = []
    for number in task.members:
        if number in task.skip:
            continue
        mark(number, 1.0)
        if number in task.deadly:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number in task.slow:
            time.sleep(60)
        if task.once and not Path(task.once).exists():
            Path(task.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        lines.append(str(number))
    (place / f"{task.name}.txt").write_text("\n".join(lines))
    return {"numbers": len(lines)}
