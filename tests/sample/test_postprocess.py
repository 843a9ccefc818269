import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmjax.sample.postprocess import to_uint8


def test_known_values() -> None:
    given_values = np.array([-1.0, 1.0, 0.0, -7.0, 7.0, np.nan, np.inf, -np.inf, 1 - 0.9 / 255], np.float32)
    np.testing.assert_array_equal(to_uint8(given_values), [0, 255, 128, 0, 255, 0, 255, 0, 255])


@given(arrays.arrays(np.uint8, (3, 5, 7, 3), elements=st.integers(0, 255)))
def test_pictures_survive_the_way_to_floats_and_back(picture: np.ndarray) -> None:
    np.testing.assert_array_equal(to_uint8(picture.astype(np.float32) / 127.5 - 1), picture)
