"""One synthetic scene, as a pure function of its arguments."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError
from selectivemae.core.order import mix
from selectivemae.core.suggest import did_you_mean
from selectivemae.data.synthetic import rural, transport, urban
from selectivemae.data.synthetic.canvas import Canvas, hulls
from selectivemae.data.synthetic.look import draw_look

_PAINTERS = rural.PAINTERS | urban.PAINTERS | transport.PAINTERS
CLASSES = tuple(sorted(_PAINTERS))
"""Names of the scene classes; ``Scene.label`` is an index into them."""

MIN_SIDE = 1.5
"""Objects whose short side is under so many pixels are drawn, but not labelled."""

_MIN_SIZE = 16
_MAX_SIZE = 4096


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene with all of its truth; H = W = size, N objects.

    An object is labelled when its centre lies inside the image. Its oriented box is that of the whole object and may
    reach over the edge; its upright box is the oriented one's hull, cut at the edge.
    """

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label: int  # index into CLASSES
    boxes: NDArray[np.float32]  # (N, 4) x0, y0, x1, y1 in pixels; the top left corner of the image is (0, 0)
    oriented: NDArray[np.float32]  # (N, 5) cx, cy, w, h in pixels, theta in radians, clockwise on screen, le90
    box_labels: NDArray[np.int64]  # (N,) index into OBJECTS
    mask: NDArray[np.uint8]  # (H, W) index into LAND
    instances: NDArray[np.uint16]  # (H, W) 1 + index of the box whose object the pixel shows, 0 for none
    gsd: float  # metres a pixel


def scene(seed: int, index: int, label: str | int, size: int = 256) -> Scene:
    """Draw scene number ``index`` of a class, ``size`` pixels a side.

    The same arguments give the same bytes, in any order and process (numpy may change its generators' streams between
    releases). ``size`` changes the resolution only: layout and extent on the ground stay.

    Raises ConfigError for an unknown class or an unusable size.
    """
    number = class_index(label)
    if not _MIN_SIZE <= size <= _MAX_SIZE:
        raise ConfigError(f"size {size} of a synthetic scene: choose one from {_MIN_SIZE} to {_MAX_SIZE} pixels")
    painter, (least, most) = _PAINTERS[CLASSES[number]]
    layout, surface = (np.random.Generator(np.random.PCG64(int(mix(seed, index, number, part)))) for part in (0, 1))
    look = draw_look(layout)
    extent = float(np.exp(layout.uniform(np.log(least), np.log(most))))
    canvas = Canvas(size, extent, look, layout)
    painter(canvas)

    oriented, kinds = canvas.objects()
    keep = ((oriented[:, :2] >= 0) & (oriented[:, :2] < size)).all(1) & (oriented[:, 3] >= MIN_SIDE)
    renumber = np.zeros(len(keep) + 1, np.uint16)
    renumber[1:][keep] = np.arange(1, keep.sum() + 1)
    tags = canvas.tags()
    return Scene(
        image=canvas.develop(surface),
        label=number,
        boxes=np.clip(hulls(oriented[keep]), 0, size).astype(np.float32),
        oriented=oriented[keep].astype(np.float32),
        box_labels=kinds[keep],
        mask=(tags & 0xFF).astype(np.uint8),
        instances=renumber[tags >> 8],
        gsd=extent / size,
    )


def class_index(label: str | int) -> int:
    """Index into CLASSES of a class given by name or index; ConfigError when there is none such."""
    if isinstance(label, str):
        if label not in CLASSES:
            raise ConfigError(f"no synthetic scene class {label!r}{did_you_mean(label, CLASSES)}")
        return CLASSES.index(label)
    if not 0 <= label < len(CLASSES):
        raise ConfigError(f"no synthetic scene class {label}: there are {len(CLASSES)}, from 0")
    return int(label)
