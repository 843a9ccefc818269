import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmjax.sample.postprocess import from_uint8, grid, sheet, to_uint8


def test_known_values() -> None:
    given_values = np.array([-1.0, 1.0, 0.0, -7.0, 7.0, np.nan, np.inf, -np.inf, 1 - 0.9 / 255], np.float32)
    np.testing.assert_array_equal(to_uint8(given_values), [0, 255, 128, 0, 255, 0, 255, 0, 255])


@given(arrays.arrays(np.uint8, (3, 5, 7, 3), elements=st.integers(0, 255)))
def test_uint8_round_trip(image: np.ndarray) -> None:
    floats = from_uint8(image)
    assert floats.dtype == np.float32 and np.abs(floats).max() <= 1
    np.testing.assert_allclose(floats, (image - 127.5) / 127.5, atol=1e-6)
    np.testing.assert_array_equal(to_uint8(floats), image)


def test_grid() -> None:
    one, two = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7, 3), np.uint8)
    image = grid([one, two])
    assert image.shape == (10, 21, 3)
    np.testing.assert_array_equal(image[5:, 14:], two[2])


@given(st.integers(1, 23), st.integers(1, 11))
def test_sheet_is_row_major_and_padded_with_black(count: int, columns: int) -> None:
    images = np.random.default_rng(count).integers(1, 256, (count, 2, 3, 3), np.uint8)
    image = sheet(images, columns)
    wide = min(count, columns)
    assert image.shape == (2 * -(-count // wide), 3 * wide, 3)
    for i in range(-(-count // wide) * wide):
        row, column = divmod(i, wide)
        cell = image[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert np.array_equal(cell, images[i]) if i < count else not cell.any()


def test_grid_of_clips() -> None:
    """Frame by frame what a grid and a sheet of the frames would be."""
    clips = np.random.default_rng(0).integers(1, 256, (2, 3, 11, 5, 7, 3), np.uint8)
    whole, below = grid(list(clips)), sheet(clips[0], 2)
    assert whole.shape == (11, 10, 21, 3) and below.shape == (11, 10, 14, 3)
    for f in range(11):
        np.testing.assert_array_equal(whole[f], grid(list(clips[:, :, f])))
        np.testing.assert_array_equal(below[f], sheet(clips[0, :, f], 2))
