"""The published comparison: its figures as printed, and what each column really is.

``published.csv`` keeps the labels of the SelectiveMAE paper's tables word for word (method, publication, backbone,
pretraining_data, images, epochs, task, dataset, split, metric, value). Where a label says something else than what was
measured, ``Column.note`` says what to compare with.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

FILE = "published.csv"


@dataclass(frozen=True)
class Column:
    """One column of the table: how ``published.csv`` names it, and the metric of an own figure that may stand in it."""

    name: str
    task: str
    dataset: str
    split: str
    metric: str
    title: str
    note: str
    own_metric: str


@dataclass(frozen=True)
class PublishedRow:
    """One line of the table; ``values`` by the column's name, in percent. A cell that was not published is absent."""

    method: str
    publication: str
    backbone: str
    data: str
    values: dict[str, float]


COLUMNS = (
    Column(
        "aid-28", "classification", "AID", "20", "OA", "AID 20 %",
        "Top-1 accuracy on the validation list, one split and one seed; whether of the last epoch or of the best one "
        "is not known. Own figures are of the last epoch.",
        "OA",
    ),
    Column("aid-55", "classification", "AID", "50", "OA", "AID 50 %", "As AID 20 %.", "OA"),
    Column(
        "resisc-19", "classification", "RESISC-45", "20", "OA", "RESISC-45 20 %",
        "Printed as 20 % for training, really 10 %: the released lists are 19 (1:9) and 28 (2:8).",
        "OA",
    ),
    Column(
        "resisc-28", "classification", "RESISC-45", "50", "OA", "RESISC-45 50 %",
        "Printed as 50 % for training, really 20 %.",
        "OA",
    ),
    Column(
        "dior", "horizontal detection", "DIOR", "", "mAP50", "DIOR mAP50",
        "COCO AP at IoU 0.5 (101 points), not VOC AP.",
        "mAP50",
    ),
    Column(
        "dior-r", "oriented detection", "DIOR-R", "", "mAP50", "DIOR-R mAP50",
        "VOC07 AP (11 points) at rotated IoU 0.5, mean of 20 classes.",
        "mAP50",
    ),
    Column(
        "loveda", "segmentation", "LoveDA", "", "mIoU", "LoveDA mIoU",
        "On the hidden test set, by the contest's server. What can be measured here is on the validation set: never "
        "compare the two.",
        "server mIoU",
    ),
    Column(
        "spacenet", "segmentation", "SpaceNetv1", "", "mF1", "SpaceNetv1 mF1",
        "Almost certainly the mIoU of the two classes: an mIoU of 79.5 means an mF1 of about 88. Own mIoU stands here.",
        "mIoU",
    ),
)  # fmt: skip

ROW_NOTES = (
    "ViT-B+RVSA: AID 97.03, RESISC-45 93.93 and 95.69 belong to ViTAE-B+RVSA, 98.50 to ViTAE-B+RVSA with windows of "
    "their own for keys and values. ViT-B+RVSA itself: AID 96.92 and 98.33, RESISC-45 93.79 and 95.49.",
    "SeCo, GASSL, CACo, SatMAE: the SpaceNetv1 figures look carried over from earlier papers (not verified).",
    "Which settings made the classification columns is not known: 100 epochs of batches of 1024 (recipe classify-1024) "
    "or 200 of 64 (classify-64).",
)


@cache
def published_cells() -> tuple[dict[str, str], ...]:
    """The lines of ``published.csv`` as they stand."""
    text = (resources.files("selectivemae") / "reports" / FILE).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def published_rows(columns: Sequence[Column] = COLUMNS) -> list[PublishedRow]:
    """The table's rows in the order of the file, with the figures of ``columns``."""
    names = {(c.task, c.dataset, c.split, c.metric): c.name for c in columns}
    rows: dict[tuple[str, ...], PublishedRow] = {}
    for cell in published_cells():
        key = tuple(cell[k] for k in ("method", "publication", "backbone", "pretraining_data", "images", "epochs"))
        data = cell["pretraining_data"]
        if cell["images"]:
            data += f", {int(cell['images']) / 1e6:g} M images x {cell['epochs']} epochs"
        row = rows.setdefault(key, PublishedRow(cell["method"], cell["publication"], cell["backbone"], data, {}))
        name = names.get((cell["task"], cell["dataset"], cell["split"], cell["metric"]))
        if name:
            row.values[name] = float(cell["value"])
    return list(rows.values())


def column(name: str) -> Column | None:
    """The column of a task's name, None for a task that the table does not have."""
    return next((c for c in COLUMNS if c.name == name), None)
