"""Positions against the formula of the paper."""

import numpy as np
import pytest

from mmjax.nn.positions import grid_positions, sine_positions


def test_equals_the_formula():
    table = np.asarray(sine_positions(13, 6))
    for t in range(13):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(table[t, [i, 3 + i]], [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_grid_tells_row_and_column_apart():
    grid = np.asarray(grid_positions(3, 5, 8)).reshape(3, 5, 8)
    np.testing.assert_array_equal(grid[:, 0, :4], grid[:, 4, :4])
    np.testing.assert_array_equal(grid[0, :, 4:], grid[2, :, 4:])
    assert len({row.tobytes() for row in grid.reshape(15, 8)}) == 15


def test_widths_that_do_not_fit():
    with pytest.raises(ValueError, match="even width"):
        sine_positions(3, 5)
    with pytest.raises(ValueError, match="multiple of 4"):
        grid_positions(3, 3, 6)
