"""Few-shot classes and several k against loops, and that the test part is not tuned on."""

import numpy as np

from selectivemae.probing.fewshot import draw_shots, few_shot, nearest_mean
from selectivemae.probing.knn import knn_predict, knn_predict_several
from selectivemae.probing.run import Prepared, judge


def clouds(n: int = 120, width: int = 6, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 4
    x = rng.normal(size=(4, width))[label] * 2 + rng.normal(size=(n, width)) * spread
    return x.astype(np.float32), label


def test_the_nearest_mean_by_loops() -> None:
    x, label = clouds()
    wanted = []
    for row in x[80:].astype(np.float64):
        scores = []
        for number in range(4):
            members = [t / np.linalg.norm(t) for t in x[:80][label[:80] == number].astype(np.float64)]
            mean = sum(members) / len(members)
            scores.append(row @ mean / np.linalg.norm(mean))
        wanted.append(int(np.argmax(scores)))
    assert nearest_mean(x[:80], label[:80], x[80:]).tolist() == wanted


def test_one_shot_is_the_nearest_neighbour() -> None:
    x, label = clouds()
    drawn = draw_shots(label[:80], 1, 7)
    assert (
        nearest_mean(x[drawn], label[drawn], x[80:]).tolist() == knn_predict(x[drawn], label[drawn], x[80:], 1).tolist()
    )


def test_draws_have_each_class_as_often_and_nothing_twice() -> None:
    _, label = clouds()
    counts = np.zeros(len(label))
    for key in range(400):
        drawn = draw_shots(label, 5, key)
        assert len(set(drawn.tolist())) == 20
        assert np.bincount(label[drawn]).tolist() == [5, 5, 5, 5]
        counts[drawn] += 1
    # 400 draws of 5 out of 30: each is drawn 66.7 times in the mean, with a deviation of 7.5.
    assert abs(counts.mean() - 400 * 5 / 30) < 1e-9
    assert counts.min() > 35
    assert counts.max() < 105


def test_more_shots_are_better_and_too_few_images_give_nothing() -> None:
    x, label = clouds(spread=2.5)
    by_shots = {n: few_shot(x[:80], label[:80], x[80:], label[80:], n) for n in (1, 10)}
    one, ten = by_shots[1], by_shots[10]
    assert one is not None
    assert ten is not None
    assert one.accuracy < ten.accuracy
    assert one.deviation > ten.deviation
    assert few_shot(x[:80], label[:80], x[80:], label[80:], 21) is None


def test_several_k_are_each_what_it_gives_alone() -> None:
    x, label = clouds(spread=2.0)
    several = knn_predict_several(x[:80], label[:80], x[80:], (1, 3, 20, 200))
    for k, predicted in several.items():
        assert predicted.tolist() == knn_predict(x[:80], label[:80], x[80:], k).tolist()


def test_the_test_labels_change_no_prediction() -> None:
    x, label = clouds(spread=2.0)
    shuffled = np.random.default_rng(1).permutation(label[80:])
    judged = [judge(Prepared(x[:80], label[:80], x[80:], test, 0, 0), 20, 0) for test in (label[80:], shuffled)]
    assert judged[0].linear.tolist() == judged[1].linear.tolist()
    assert judged[0].penalty == judged[1].penalty
    assert all(np.array_equal(judged[0].knn[k], judged[1].knn[k]) for k in judged[0].knn)
