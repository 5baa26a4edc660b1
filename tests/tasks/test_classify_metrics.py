"""Figures of classification against loops; tables of predictions and what is wrong with bad ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from selectivemae.core.errors import DataError
from selectivemae.core.statistics import mean_deviation, wilson
from selectivemae.tasks.classify.metrics import (
    UNREAD,
    confusion_matrix,
    evaluate_tables,
    figures,
    mistakes,
)

CLASSES = ("a", "b", "c", "d")
PAIRS = st.lists(st.tuples(st.integers(UNREAD, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_figures_equal_loops(pairs: list[tuple[int, int]]) -> None:
    predicted, label = np.array(pairs, np.int64).T
    found = figures(predicted, label, CLASSES)
    right = [p == w for p, w in pairs]
    assert found.oa == pytest.approx(100 * sum(right) / len(pairs))
    shares = {}
    for number, name in enumerate(CLASSES):
        of_class = [r for r, (_, w) in zip(right, pairs, strict=True) if w == number]
        shares[name] = 100 * sum(of_class) / len(of_class) if of_class else None
    assert dict(zip(CLASSES, found.per_class, strict=True)) == pytest.approx(shares)
    assert found.aa == pytest.approx(np.mean([share for share in shares.values() if share is not None]))
    assert found.unreadable == sum(p == UNREAD for p, _ in pairs)
    for row in range(4):
        for column in range(4):
            assert found.confusion[row, column] == pairs.count((column, row))
    assert found.as_text().startswith("OA ")


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_scipys(pair: tuple[int, int]) -> None:
    right, total = pair
    wanted = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson(right, total, 1.959963984540054) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_deviation() -> None:
    assert mean_deviation([3.0]) == (3.0, None)
    values = [1.0, 4.0, 5.0]
    assert mean_deviation(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert wilson(0, 0) == (0.0, 1.0)


def test_what_is_missing_is_said() -> None:
    found = figures(np.array([0, UNREAD]), np.array([0, 1]), CLASSES)
    text = found.as_text()
    assert "2 of 4 classes have no image here: c, d" in text
    assert "1 images could not be read" in text
    with pytest.raises(DataError, match="no image to evaluate"):
        figures(np.empty(0, np.int64), np.empty(0, np.int64), CLASSES)


def test_the_worst_mistakes_come_first() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    assert mistakes(scores, np.array([0, 0, 1, 0]), 2).tolist() == [1, 3]
    assert confusion_matrix(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 0]), 2).tolist() == [[1, 2], [1, 0]]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tables(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.csv", "id,label\n1,a\n2,a\n3,b\n")
    said = write(tmp_path / "said.csv", "id,label,score_a\n3,b,0.1\n1,a,0.9\n2,b,0.4\n")
    found = evaluate_tables(said, truth)
    assert found.oa == pytest.approx(200 / 3)
    assert found.aa == pytest.approx(75)
    assert found.confusion.tolist() == [[1, 1], [0, 1]]


def test_classes_that_the_ground_truth_lacks_are_known_by_their_scores(tmp_path: Path) -> None:
    """As of the predictions of a run on a part of its classes: c is a class, and taking a for it a mistake."""
    truth = write(tmp_path / "truth.csv", "id,label\n1,a\n2,a\n3,b\n")
    rows = "1,a,0.1,0.2,0.7\n2,c,0.9,0,0.1\n3,b,0,1,0\n"
    found = evaluate_tables(write(tmp_path / "said.csv", f"id,label,score_c,score_b,score_a\n{rows}"), truth)
    assert found.classes == ("c", "b", "a")
    assert (found.oa, found.aa) == (pytest.approx(200 / 3), pytest.approx(75))
    assert found.per_class == (None, 100, 50)
    with pytest.raises(DataError, match="line 2: class 'd'"):
        evaluate_tables(write(tmp_path / "said.csv", "id,label,score_c,score_b,score_a\n1,d\n2,a\n3,b\n"), truth)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("id,class\n1,a\n", r"said.csv, line 1: needs the columns id and label"),
        ("id,label\n1,a\n2,b\n", r"said.csv has no line for 1 ids: 3"),
        ("id,label\n1,a\n2,a\n3,a\n4,a\n", r"truth.csv has no line for 1 ids: 4"),
        ("id,label\n1,a\n1,a\n", r"said.csv, line 3: id '1' stands in line 2 too"),
        ("id,label\n1,forest\n2,a\n3,a\n", r"said.csv, line 2: class 'forest' is not in .*did you mean 'forests'"),
        ("id,label\n1\n", r"said.csv, line 2: id or label is missing"),
        ("", r"needs the columns"),
        ("id,label\n", r"has no lines"),
    ],
)
def test_bad_tables_are_named_by_line(tmp_path: Path, said: str, complaint: str) -> None:
    truth = write(tmp_path / "truth.csv", "id,label\n1,a\n2,forests\n3,b\n")
    with pytest.raises(DataError, match=complaint):
        evaluate_tables(write(tmp_path / "said.csv", said), truth)
