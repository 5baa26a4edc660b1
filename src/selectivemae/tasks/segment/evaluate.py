"""Evaluation of a segmenter by sliding windows, and the folder that it leaves.

evaluation/
  figures.json       mIoU, mF1, pixel accuracy, per class, boundary F1, confusion matrix
  per_class.csv      class, pixels, iou, f1, boundary_f1
  confusion.png      share of each class's pixels taken for each
  pictures.png       some images: image, labels, prediction
  quarantine.csv     images that could not be read
"""

import io
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selectivemae.core.config import Settings
from selectivemae.core.errors import DataError, DecodeError, StoreError
from selectivemae.core.files import atomic_folder, atomic_write
from selectivemae.core.order import Int64
from selectivemae.core.records import csv_text
from selectivemae.data.labels import listed
from selectivemae.engine.folder import saved_settings
from selectivemae.engine.precision import autocast, choose_device, resolve_precision
from selectivemae.tasks.common import EVALUATION
from selectivemae.tasks.segment.classes import (
    IGNORED,
    MAX_CLASSES,
    Classes,
    find_classes,
    numbered_classes,
    second_by_255,
)
from selectivemae.tasks.segment.config import EvaluateConfig, MaskSettings
from selectivemae.tasks.segment.data import Pairs, open_pairs, rows_of
from selectivemae.tasks.segment.masks import decode_mask
from selectivemae.tasks.segment.metrics import Figures, Tally, figures
from selectivemae.tasks.segment.model import Segmenter, load_segmenter
from selectivemae.tasks.segment.pictures import Shown, confusion_picture, sheet_picture
from selectivemae.tasks.segment.windows import slide

UInt8 = NDArray[np.uint8]
T = TypeVar("T")
K = TypeVar("K")

_SHOWN = 8  # images on the sheet
_THREADS = 2  # that decode ahead
_MASK_FILES = (".png", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Judged:
    """What came of an evaluation: counts, images to look at, and (id, reason) of those that could not be read."""

    tally: Tally
    shown: list[Shown]
    unread: list[tuple[str, str]]


@dataclass(frozen=True)
class Predictor:
    """A segmenter on its device that answers for windows and for whole images."""

    segmenter: Segmenter
    device: torch.device
    precision: str
    batch: int = 8

    def scores(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) float32 on the device of images (B, C, H, W) uint8, none larger than a window."""
        with torch.inference_mode(), autocast(self.precision, self.device):
            return self.segmenter.logits(images.to(self.device))

    def numbers(self, pixels: UInt8) -> Tensor:
        """Class numbers (H, W) uint8, on the device, of an image (H, W, C) of any size, by sliding windows."""
        image = torch.from_numpy(pixels).permute(2, 0, 1).to(self.device)
        logits = slide(self.scores, image, self.segmenter.crop, self.segmenter.shape.stride, self.batch)
        return logits.argmax(dim=0).to(torch.uint8)


def judge(predictor: Predictor, pairs: Pairs, rows: Int64) -> Judged:
    """Predict images (rows of the layout) and count; the model is in evaluation mode meanwhile."""
    model, channels = predictor.segmenter.model, predictor.segmenter.info.channels
    tally, unread, shown = Tally(len(pairs.classes.names)), [], []
    chosen = set(rows[np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).astype(np.int64)].tolist())
    training = model.training
    model.eval()
    for row, result in ahead(lambda row: _read(pairs, row, channels), rows.tolist()):
        if isinstance(result, str):
            unread.append((pairs.store.id(int(pairs.layout.image[row])), result))
            continue
        pixels, label = result
        predicted = predictor.numbers(pixels)
        tally.add(predicted, torch.from_numpy(label).to(predicted.device))
        if row in chosen:
            shown.append(Shown(pairs.layout.names[row], pixels, label, predicted.cpu().numpy()).small())
    model.train(training)
    return Judged(tally, shown, unread)


def _read(pairs: Pairs, row: int, channels: int) -> tuple[UInt8, UInt8] | str:
    """Image and mask, or why they cannot be used."""
    try:
        return pairs.pair(row, channels)
    except (DecodeError, StoreError, DataError) as error:  # DataError: of a file of footprints
        return getattr(error, "reason", "unreadable")


def ahead(function: Callable[[K], T], items: Sequence[K]) -> Iterator[tuple[K, T]]:
    """(item, ``function(item)``) in order, some computed ahead by threads (decoders let go of the interpreter)."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="read") as pool:
        waiting: deque[tuple[K, Future[T]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > 2 * _THREADS:
                item, future = waiting.popleft()
                yield item, future.result()
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()


def evaluate_run(run: Path, config: Settings, out: Path | None = None) -> Figures:
    """Judge a fine-tuned segmenter on images with masks; the command ``evaluate`` is this call.

    Without data, or with those of the run, its own split, classes and folders are used; bands and precision are the
    run's. ``out`` gets the folder described above. Raises UserError subclasses: for a run that is none, data that do
    not do, and other classes.
    """
    segmenter = load_segmenter(run)
    own = saved_settings(run if run.is_dir() else run.parent)
    given = {k: v for k, v in config.given().items() if k in EvaluateConfig.model_fields}
    if given.get("data") in (None, own.get("data")):
        given = {k: v for k, v in own.items() if k in MaskSettings.model_fields} | given
    usual = {"bands": segmenter.shape.bands, "precision": own.get("precision", "auto")}
    settings = EvaluateConfig.build(usual, given)
    pairs = open_pairs(settings)
    if pairs.classes.names != segmenter.classes:
        raise DataError(
            f"{run} knows the classes {listed(segmenter.classes)}; {settings.data} has {listed(pairs.classes.names)}"
        )
    device = choose_device(settings.device)
    segmenter.model.to(device)
    predictor = Predictor(segmenter, device, resolve_precision(settings.precision, device), settings.batch_size)
    if settings.submission is not None:
        write_submission(predictor, pairs, settings.submission)
    rows = rows_of(pairs, settings.part)
    if not len(rows):
        raise DataError(f"{settings.data} has no image in the part {settings.part} ({pairs.layout.how})")
    judged = judge(predictor, pairs, rows)
    return write_evaluation(out, judged, segmenter) if out else figures_of(judged, segmenter.classes)


def figures_of(judged: Judged, classes: Sequence[str]) -> Figures:
    """Figures of an evaluation. DataError when no image could be read."""
    if judged.unread and not judged.tally.images:
        name, reason = judged.unread[0]
        raise DataError(f"none of the {len(judged.unread)} images can be used, {name} because: {reason}")
    return figures(judged.tally, classes, len(judged.unread))


def write_evaluation(folder: Path, judged: Judged, segmenter: Segmenter) -> Figures:
    """Write the folder described above, as a whole, and give its figures."""
    found = figures_of(judged, segmenter.classes)
    with atomic_folder(folder, sums=False) as out:
        _write_figures(out, found)
        if judged.shown:
            sheet = sheet_picture(judged.shown, segmenter.classes, segmenter.colours)
            (out / "pictures.png").write_bytes(sheet)
        if judged.unread:
            (out / "quarantine.csv").write_text(csv_text(["id", "reason"], judged.unread))
    return found


def write_submission(predictor: Predictor, pairs: Pairs, path: Path) -> int:
    """Write a zip of PNGs of class numbers from 0 on, named as the images, of the test images without masks; gives
    their number. What LoveDA's server takes. DataError when there are none, or two of one name."""
    places = pairs.layout.unlabelled.tolist()
    names = [PurePosixPath(pairs.store.id(place)).stem + ".png" for place in places]
    if not names or len(set(names)) < len(names):
        what = f"two test images are called {max(names, key=names.count)}" if names else "no test image is without mask"
        raise DataError(f"{what}: a submission needs a test part without masks, of different names")
    predictor.segmenter.model.eval()
    channels, file = predictor.segmenter.info.channels, io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for (_, pixels), name in zip(ahead(lambda p: _image(pairs, p, channels), places), names, strict=True):
            picture = io.BytesIO()
            Image.fromarray(predictor.numbers(pixels).cpu().numpy()).save(picture, format="PNG")
            archive.writestr(name, picture.getvalue())
    atomic_write(path, file.getvalue())
    return len(names)


def _image(pairs: Pairs, place: int, channels: int) -> UInt8:
    try:
        return pairs.pixels(place, channels)
    except DecodeError as error:
        raise DataError(f"{pairs.store.id(place)}: {error}; a submission needs all images") from error


def evaluate_files(
    predictions: Path, ground_truth: Path, out: Path | None = None, classes: str | None = None
) -> Figures:
    """Judge masks (PNG or TIFF of the classes' values) by those of the same names in another folder.

    Classes are those that ``classes`` names (as in training), else those of a class file in ``ground_truth`` or the
    folder above, else the values that occur on either side (255 is ignored). DataError names files that lack a
    partner, differ in size, or hold values that are no class.
    """
    said, true = _mask_files(predictions), _mask_files(ground_truth)
    for there, others, lacking in ((true, said, predictions), (said, true, ground_truth)):
        absent = sorted(there.keys() - others.keys())
        if absent:
            raise DataError(f"{lacking} has no mask for {len(absent)} names: {listed(absent)}")
    known = find_classes(classes, ground_truth) or find_classes(None, ground_truth.parent)
    labelled, predicted = _spellings(known, true, said)
    tally = Tally(len(labelled.names))
    for name, (label, mask) in ahead(
        lambda name: (_numbers(true[name], labelled), _numbers(said[name], predicted)), sorted(true)
    ):
        if label.shape != mask.shape:
            raise DataError(f"{said[name]} has {mask.shape} rows and columns, {true[name]} has {label.shape}")
        missing = (mask == IGNORED) & (label != IGNORED)
        if missing.any():
            row, column = (int(i) for i in np.argwhere(missing)[0])
            raise DataError(
                f"{said[name]}: {int(missing.sum())} labelled pixels have no class, the first at row {row}, column "
                f"{column}; predictions must use the values {predicted.spelt()}"
            )
        tally.add(torch.from_numpy(mask), torch.from_numpy(label))
    found = figures(tally, labelled.names)
    if out is not None:
        with atomic_folder(out, sums=False) as folder:
            _write_figures(folder, found)
    return found


def _mask_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of masks (PNG or TIFF)")
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in _MASK_FILES]
    found = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    if not found or len(found) < len(files):
        raise DataError(f"{folder} holds {'two masks of one name' if files else 'no mask (PNG or TIFF)'}")
    return found


def _numbers(path: Path, classes: Classes) -> UInt8:
    try:
        return classes.numbers(*decode_mask(path.read_bytes(), classes.all_colours))
    except (DecodeError, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def _values_of(path: Path) -> list[int]:
    try:
        values, valid = decode_mask(path.read_bytes())
        return np.unique(values if valid is None else values[valid]).tolist()
    except (DecodeError, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def _spellings(known: Classes | None, true: dict[str, Path], said: dict[str, Path]) -> tuple[Classes, Classes]:
    """The classes as labels and as predictions spell them: those known, else numbers up to the largest that occurs."""
    if known is not None and (known.given or known.coded or len(known.names) > 2):
        return known, known
    truth, claims = _values(true), _values(said)
    classes = known or numbered_classes(max(1, *(v for v in truth | claims if v != IGNORED)) + 1)
    labelled = second_by_255(classes, truth)
    # A prediction of 255 is one of no class, unless the labels mean a class by it.
    return labelled, classes if labelled is classes else second_by_255(classes, claims)


def _values(files: dict[str, Path]) -> set[int]:
    """The values that occur in masks. DataError where they are no numbers of classes."""
    found: set[int] = set()
    for path, values in ahead(_values_of, list(files.values())):
        found |= set(values)
        largest = max(v for v in found | {0} if v != IGNORED)
        if largest >= MAX_CLASSES:
            raise DataError(f"{path} holds the value {largest}: put a classes.yaml that says which classes there are")
    return found


def _write_figures(out: Path, found: Figures) -> None:
    (out / EVALUATION).write_text(json.dumps(found.as_dict(), indent=1))
    columns = zip(found.classes, found.pixels, found.iou, found.f1, found.boundary, strict=True)
    rows = [[name, pixels, *("" if v is None else f"{v:.2f}" for v in shares)] for name, pixels, *shares in columns]
    (out / "per_class.csv").write_text(csv_text(["class", "pixels", "iou", "f1", "boundary_f1"], rows))
    (out / "confusion.png").write_bytes(confusion_picture(found))
