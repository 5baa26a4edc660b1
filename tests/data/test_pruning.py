"""Pruning keeps the expected gradient, and its order is a partition of what is kept."""

import numpy as np

from selectivemae.data.batch import Position
from selectivemae.data.loader import cut
from selectivemae.data.pruning import PLAIN, RAISED, SKIPPED, PrunedOrder, draw


def test_only_losses_below_the_mean_are_touched():
    losses = np.array([0.1, 0.2, np.inf, 0.3, 0.9, 1.0], np.float32)
    drawn = np.stack([draw(losses, 0.5, 0, epoch) for epoch in range(200)])
    mean = losses[np.isfinite(losses)].mean()
    assert (drawn[:, losses >= mean] == PLAIN).all()
    low = drawn[:, losses < mean]
    assert set(np.unique(low)) == {RAISED, SKIPPED}
    # 600 draws of probability 0.5: five standard errors are 0.10.
    assert abs((low == SKIPPED).mean() - 0.5) < 0.10


def test_expected_gradient_equals_the_unpruned_one():
    rng = np.random.default_rng(0)
    n, ratio = 500, 0.7
    gradients = rng.normal(size=n)
    losses = rng.random(n).astype(np.float32)
    sums = []
    for epoch in range(4000):
        drawn = draw(losses, ratio, 3, epoch)
        weight = np.where(drawn == SKIPPED, 0, np.where(drawn == RAISED, 1 / (1 - ratio), 1.0))
        sums.append(float((weight * gradients).sum()))
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - gradients.sum()) < 4 * error


def epoch_of(order, epoch, batch=7):
    """All samples and weights of one epoch, read by batches, each sample's loss booked as it comes."""
    position, index, weight = Position(epoch, 0), [], []
    while position.epoch == epoch:
        before = position
        step = cut(order, 0, position, batch)
        position = step.after
        own = batch if position.epoch == epoch else batch - position.consumed
        index.append(step.index[:own])
        weight.append(step.weight[:own])
        assert before < position
    return np.concatenate(index), np.concatenate(weight)


def test_every_kept_sample_comes_once_with_its_weight():
    n = 103
    order = PrunedOrder(0, n, 0.5, rest=lambda epoch: epoch >= 3)
    losses = np.random.default_rng(1).random(n).astype(np.float32)
    index, weight = epoch_of(order, 0)
    assert sorted(index) == list(range(n))
    assert (weight == 1).all()
    order = PrunedOrder(0, n, 0.5, rest=lambda epoch: epoch >= 3)
    order.record(np.arange(n), losses)
    index, weight = epoch_of(order, 1)
    low = losses < losses.mean(dtype=np.float64)
    assert len(set(index)) == len(index) < n
    assert set(np.flatnonzero(~low)) <= set(index)
    np.testing.assert_array_equal(weight, np.where(low[index], 2.0, 1.0))
    order = PrunedOrder(0, n, 0.5, rest=lambda epoch: epoch >= 3)
    order.record(np.arange(n), losses)
    index, weight = epoch_of(order, 3)
    assert sorted(index) == list(range(n))
    assert (weight == 1).all()


def test_state_restores_in_the_middle_of_an_epoch():
    def fresh():
        return PrunedOrder(5, 50, 0.6, rest=lambda epoch: False)

    first = fresh()
    first.record(np.arange(50), np.random.default_rng(2).random(50).astype(np.float32))
    expected = first.samples(4, np.arange(first.count(4)))
    first.record(expected[:10], np.full(10, 9.0, np.float32))
    second = fresh()
    second.restore(first.saved())
    np.testing.assert_array_equal(second.samples(4, np.arange(second.count(4))), expected)
    np.testing.assert_array_equal(second.weights(4, expected), first.weights(4, expected))
    np.testing.assert_array_equal(
        second.samples(5, np.arange(second.count(5))), first.samples(5, np.arange(first.count(5)))
    )


def test_ids_above_two_to_the_24th_survive():
    n = 2**24 + 3
    order = PrunedOrder(0, n, 0.5, rest=lambda epoch: False)
    order.record(np.array([n - 1, n - 2]), np.array([0.25, 0.5], np.float32))
    assert order.losses[n - 1] == np.float32(0.25)
    kept = order.samples(1, np.arange(order.count(1))[-1000:])
    assert kept.dtype == np.int64
    assert order.drawn[n - 2] == PLAIN
    assert order.drawn[n - 1] in (RAISED, SKIPPED)
