"""The tf.data operations."""

import pytest

pytest.importorskip("tensorflow")
import tensorflow as tf

from mmjax.data import operations


@pytest.mark.parametrize("size", [1, 2, 7, 101])
def test_shuffled_index_is_a_permutation_that_differs_by_epoch_and_seed(size: int) -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        places = range(size)
        epochs = tf.constant(epoch, tf.int64)
        shuffled = [operations.shuffled_index(tf.constant(p, tf.int64), epochs, size, seed) for p in places]
        return tuple(int(index) for index in shuffled)

    orders = {order(*pair) for pair in [(0, 0), (0, 1), (0, 2), (1, 0), (2**32 - 1, 0)]}
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(orders) == (5 if size > 5 else len(orders))
