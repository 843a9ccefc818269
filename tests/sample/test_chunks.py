"""Functions of examples give each the same result, bit for bit, however many there are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.sample.chunks import CHUNK, per_example

COUNTS = (1, 2, 5, 16, 17)


def network(params: Any, x: jax.Array, scale: jax.Array) -> jax.Array:
    """Sums of products, whose rounding depends on their order, and what is far from linear behind them."""
    for kernel in params:
        x = jnp.tanh(x @ kernel) * jnp.exp(scale[:, None])
    return x


@pytest.fixture(name="given", scope="module")
def random_inputs() -> tuple[Any, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    params = [rng.normal(0, 0.1, shape).astype(np.float32) for shape in ((257, 131), (131, 263), (263, 257))]
    return params, rng.normal(size=(37, 257)).astype(np.float32), rng.normal(size=37).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 4, CHUNK])
def test_bitwise_the_same_for_any_number(given: Any, rows: int) -> None:
    params, x, scale = given
    program = per_example(network, rows)
    whole = program(params, x, scale)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(whole, network(params, jnp.asarray(x), jnp.asarray(scale)), rtol=1e-3, atol=1e-5)
    for count in COUNTS:
        np.testing.assert_array_equal(program(params, x[:count], scale[:count]), whole[:count])
    order = np.random.default_rng(1).permutation(37)
    np.testing.assert_array_equal(program(params, x[order], scale[order]), whole[order])


def test_time_is_spent_on_what_is_asked_for_alone() -> None:
    seen: list[int] = []

    def watched(params: Any, x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda rows: seen.append(len(rows)), x)
        return x + params

    for rows in (1, 4, CHUNK):
        program = per_example(watched, rows)
        for count in (*COUNTS, 37):
            seen.clear()
            program(np.float32(1), np.zeros((count, 3), np.float32))
            jax.effects_barrier()
            full, rest = divmod(count, CHUNK)
            assert seen == [rows] * (full * (CHUNK // rows) + -(-rest // rows))


def test_one_program_is_compiled() -> None:
    traced = []

    def watched(params: Any, x: jax.Array) -> jax.Array:
        traced.append(x.shape)
        return x

    program = per_example(watched, 1)
    for count in COUNTS:
        program(None, np.zeros((count, 3), np.float32))
    assert len(traced) == 2 and set(traced) == {(1, 3)}  # for its shape, and itself
