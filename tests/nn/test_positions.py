"""Position encodings against the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmjax.nn.positions import apply_rope, rope_angles, sincos_1d, sincos_grid


def test_equals_the_formula():
    table = np.asarray(sincos_1d(13, 6))
    for t in range(13):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(table[t, [i, 3 + i]], [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_sincos_grid_separates_row_and_column():
    grid = np.asarray(sincos_grid((3, 5), 8)).reshape(3, 5, 8)
    np.testing.assert_array_equal(grid[:, 0, :4], grid[:, 4, :4])
    np.testing.assert_array_equal(grid[0, :, 4:], grid[2, :, 4:])
    assert len({row.tobytes() for row in grid.reshape(15, 8)}) == 15


def test_sincos_of_a_clip_adds_the_frame():
    clip = np.asarray(sincos_grid((2, 3, 5), 8)).reshape(2, 15, 8)
    frames = clip - np.asarray(sincos_grid((3, 5), 8))
    np.testing.assert_allclose(frames, np.tile(sincos_1d(2, 8)[:, None], (1, 15, 1)), atol=1e-6)


def test_rope_equals_complex_rotation():
    """Su et al. 2021, equation 34: each pair is a complex number, turned by its angle."""
    x = np.random.default_rng(0).normal(size=(2, 15, 3, 11)).astype(np.float32)
    angles = rope_angles((3, 5), 11)
    assert angles.shape == (15, 4)
    pairs = (x[..., :4] + 1j * x[..., 4:8]) * np.exp(1j * angles)[None, :, None]
    expected = np.concatenate([pairs.real, pairs.imag, x[..., 8:]], axis=-1)
    np.testing.assert_allclose(apply_rope(jnp.asarray(x), angles), expected, atol=1e-6)


# Few shapes, since each compiles.
@given(st.sampled_from([(5,), (3, 5), (1, 3, 2)]), st.sampled_from([1, 3]), st.data())
def test_rope_products_depend_on_displacements_only(sides, pairs, data):
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 2 * pairs * len(sides))).astype(np.float32)
    n = int(np.prod(sides))
    shape = (1, n, 1, q.shape[-1])
    angles = rope_angles(sides, shape[-1])
    turned = [np.asarray(jax.jit(apply_rope)(np.broadcast_to(x, shape), angles))[0, :, 0] for x in (q, k)]
    products = (turned[0] @ turned[1].T).reshape(*sides, *sides)
    places = [data.draw(st.integers(0, side - 1)) for side in sides], [data.draw(st.integers(0, s - 1)) for s in sides]
    # Moved to the corner as far as both can go, the two are as far apart as before.
    moved = [[a - min(a, b) for a, b in zip(one, other, strict=True)] for one, other in (places, places[::-1])]
    np.testing.assert_allclose(
        products[tuple(places[0] + places[1])], products[tuple(moved[0] + moved[1])], rtol=1e-4, atol=1e-5
    )
