"""The tf.data operations."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")
import tensorflow as tf

from mmjax.data import operations


@pytest.mark.parametrize("size", [1, 2, 7, 101])
def test_shuffled_index_is_a_permutation_that_differs_by_epoch_and_seed(size: int) -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        shuffled = operations.shuffled_index(np.arange(size), epoch, size, seed).tolist()
        for place in range(0, size, 5):  # as one alone
            alone = tf.random.experimental.index_shuffle(place, tf.constant([seed, epoch], tf.int64), size - 1)
            assert int(alone) == shuffled[place]
        return tuple(shuffled)

    orders = {order(*pair) for pair in [(0, 0), (0, 1), (0, 2), (1, 0), (2**32 - 1, 0)]}
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(orders) == (5 if size > 5 else len(orders))
