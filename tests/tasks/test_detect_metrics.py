"""AP of upright boxes: pycocotools, the specification's check values, and a plain second implementation."""

import contextlib
import io

import numpy as np
import pytest

from selectivemae.core.errors import DataError
from selectivemae.tasks import average_precision as ap
from selectivemae.tasks.boxes_common import BoxSet, Detections, Labelled, Notes
from selectivemae.tasks.detect import data, metrics


def made_up(seed: int, images: int = 12, classes: int = 4, absent: int = 3) -> tuple[BoxSet, dict[str, Detections]]:
    """Random objects and detections, many overlapping; no object is of class ``absent``; some images are empty."""
    rng = np.random.default_rng(seed)
    items, found = [], {}
    for i in range(images):
        n = int(rng.integers(0, 9))
        low = rng.uniform(0, 150, (n, 2))
        boxes = np.concatenate((low, low + rng.uniform(8, 60, (n, 2))), axis=1)
        labels = rng.integers(0, absent, n)
        items.append(Labelled(f"i{i:02}", None, (200, 200), boxes, labels, rng.random(n) < 0.2))
        repeats = rng.integers(0, n, 3 * n) if n else np.zeros(0, int)
        noisy = boxes[repeats] + rng.normal(0, 4, (len(repeats), 4))
        noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 2)
        guess = np.where(rng.random(len(repeats)) < 0.8, labels[repeats], rng.integers(0, classes, len(repeats)))
        scores = np.round(rng.random(len(repeats)), 6)
        if i != 3:
            found[f"i{i:02}"] = Detections(noisy, scores, guess.astype(np.int64))
    return BoxSet(tuple("abcd"[:classes]), items, Notes()), found


@pytest.mark.parametrize("crowds", ["keep", "ignore"])
@pytest.mark.parametrize("seed", [0, 1])
def test_coco_figures_equal_pycocotools(seed: int, crowds: ap.Difficult):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    truth, found = made_up(seed)
    document = data.to_coco(truth)
    if crowds == "keep":
        for annotation in document["annotations"]:
            annotation["iscrowd"] = 0
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = document | {"info": {}}
        reference.createIndex()
        oracle = cocoeval.COCOeval(reference, reference.loadRes(data.to_results(truth, found)), "bbox")
        oracle.params.maxDets = [1, 100, 1000]
        oracle.evaluate()
        oracle.accumulate()
    precision = oracle.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    figures = metrics.coco_figures(truth, found, crowds)
    assert figures.map == pytest.approx(np.nanmean(precision), abs=1e-12)
    assert figures.map50 == pytest.approx(np.nanmean(precision[0]), abs=1e-12)
    assert figures.map75 == pytest.approx(np.nanmean(precision[5]), abs=1e-12)
    assert list(figures.class_ap50.values()) == pytest.approx(
        precision[0].mean(axis=0).tolist(), abs=1e-12, nan_ok=True
    )
    assert np.isnan(figures.class_ap["d"])


def test_coco_figures_of_perfect_and_of_no_detections():
    truth, _ = made_up(2)
    perfect = {i.id: Detections(i.boxes, np.ones(len(i.boxes)), i.labels) for i in truth}
    assert metrics.coco_figures(truth, perfect).map == pytest.approx(1)
    assert metrics.coco_figures(truth, {}).map == 0
    assert metrics.voc_figures(truth, perfect, difficult="keep").map_area == pytest.approx(1)
    assert metrics.voc_figures(truth, {}).map_11_point == 0


def test_check_values_of_the_curve():
    curve = ap.Curve(np.array([0.2, 0.2, 0.4, 0.6, 0.6]), np.array([1, 0.5, 2 / 3, 0.75, 0.6]), np.zeros(5), 5)
    assert curve.ap_11_point == pytest.approx(0.545455, abs=1e-6)
    assert curve.ap_area == pytest.approx(0.5)
    # The same order of hits and misses, as boxes, through the COCO evaluator: 0.50495.
    boxes = np.array([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(10)])
    truth = BoxSet(("a",), [Labelled("x", None, (10, 200), boxes[:5], np.zeros(5, int), np.zeros(5, bool))], Notes())
    found = {"x": Detections(boxes[[0, 5, 1, 2, 6]], np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.zeros(5, np.int64))}
    assert metrics.coco_figures(truth, found).map50 == pytest.approx(0.50495, abs=1e-5)
    voc = metrics.voc_figures(truth, found)
    assert (voc.map_11_point, voc.map_area) == pytest.approx((0.545455, 0.5), abs=1e-6)
    assert voc.curves["a"].recall.tolist() == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])
    assert voc.curves["a"].precision.tolist() == pytest.approx([1, 0.5, 2 / 3, 0.75, 0.6])


def test_an_ignored_object_is_neither_hit_nor_miss_and_a_taken_one_is_a_miss():
    iou = np.array([[0.9, 0.0], [0.8, 0.0], [0.2, 0.7], [0.4, 0.3]])
    verdicts = ap.match(iou, np.array([False, True]), 0.5)
    assert verdicts.tolist() == [ap.TRUE, ap.FALSE, ap.NEITHER, ap.FALSE]
    assert ap.match(np.zeros((3, 0)), np.zeros(0, bool), 0.5).tolist() == [ap.FALSE] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"stranger": Detections(np.zeros((1, 4)), np.zeros(1), np.zeros(1, np.int64))},
        {"i00": Detections(np.zeros((1, 5)), np.zeros(1), np.zeros(1, np.int64))},
        {"i00": Detections(np.full((1, 4), np.nan), np.zeros(1), np.zeros(1, np.int64))},
        {"i00": Detections(np.zeros((1, 4)), np.zeros(1), np.array([4]))},
    ],
)
def test_predictions_that_do_not_belong_are_refused(wrong: dict[str, Detections]):
    truth, _ = made_up(0)
    for figures in (metrics.coco_figures, metrics.voc_figures):
        with pytest.raises(DataError, match=next(iter(wrong))):
            figures(truth, wrong)
