"""Compiled functions of any number of examples, whose result for each example does not depend on the others."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 16  # examples in each call of the compiled program


def per_example(function: Callable[..., Any], on_cpu: int = 1, elsewhere: int = 4) -> Callable[..., np.ndarray]:
    """Compiles `function` for any number of examples, with bitwise the same result for each however many there are.

    XLA rounds matrix products of other sizes differently. So one program loops over the examples, a few at a time, each
    few computed in the same way. The time is proportional to the number of examples.

    Args:
        function: pure, (constants, *arrays of equally many examples) -> an array of as many examples. Constants are
            any tree, such as parameters.
        on_cpu, elsewhere: examples at a time; divisors of CHUNK. More than one pays on CPUs only where an example has
            few rows, as in text generation with its cache.

    Returns:
        (constants, *arrays of equally many examples, at least one) -> array.
    """

    @jax.jit
    def chunk(constants: Any, count: jax.Array, *arrays: jax.Array) -> jax.Array:
        own = on_cpu if jax.devices()[0].platform == "cpu" else elsewhere
        groups = [x.reshape(CHUNK // own, own, *x.shape[1:]) for x in arrays]
        shape = jax.eval_shape(function, constants, *(x[0] for x in groups))

        def body(i: jax.Array, results: jax.Array) -> jax.Array:
            result = function(constants, *(jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for x in groups))
            return jax.lax.dynamic_update_index_in_dim(results, result, i, 0)

        # The number of iterations is no part of the program.
        results = jnp.zeros((CHUNK // own, *shape.shape), shape.dtype)
        results = jax.lax.fori_loop(0, (count + own - 1) // own, body, results)
        return results.reshape(CHUNK, *shape.shape[1:])

    def call(constants: Any, *arrays: np.ndarray) -> np.ndarray:
        results = []
        for start in range(0, len(arrays[0]), CHUNK):
            parts = [array[start : start + CHUNK] for array in arrays]
            count = len(parts[0])
            padded = [np.concatenate([part, np.repeat(part[:1], CHUNK - count, axis=0)]) for part in parts]
            with jax.enable_x64(False):  # a program that imports mmjax may have enabled it, which draws other bits
                results.append(jax.device_get(chunk(constants, np.int32(count), *padded))[:count])
        return np.concatenate(results)

    return call
