"""Seconds of both implementations of the transposed convolution, forward and backward, on the first device.

    python benchmarks/transposed_convolution.py

Prints the median of each and their ratio.
"""

import statistics
import time

import jax
import jax.numpy as jnp

from mmjax.nn.convolution import transposed_convolution

CASES = ((8, 128, 64), (16, 64, 32), (16, 48, 16))  # side of the input, channels in, channels out
BATCH, RUNS = 64, 7


def seconds(implementation: str, x: jax.Array, kernel: jax.Array) -> float:
    """The median of several runs, after compilation."""

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(transposed_convolution(x, kernel, implementation)))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
    jax.block_until_ready(compiled(x, kernel))
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(x, kernel))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    print(f"{jax.devices()[0].device_kind}, batch {BATCH}, forward and backward, median of {RUNS}")
    for side, before, after in CASES:
        x = jax.random.normal(jax.random.key(0), (BATCH, side, side, before))
        kernel = jax.random.normal(jax.random.key(1), (4, 4, before, after))
        native, matmul = seconds("native", x, kernel), seconds("matmul", x, kernel)
        shape = f"{side} x {side} x {before} to {2 * side} x {2 * side} x {after}"
        print(f"{shape:>36}: native {native:.4f} s, matmul {matmul:.4f} s, ratio {native / matmul:.1f}")


if __name__ == "__main__":
    main()
