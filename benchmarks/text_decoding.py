"""Text generation with a KV cache, compared with recomputing all tokens at each step.

    python benchmarks/text_decoding.py [--length N] [--batch B] [--width D] [--layers L]

Both decode greedily with random parameters up to the full length, with equal results. Prints the seconds of each,
after compilation, and their ratio.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.text_decoder import TextDecoder, gather_cache
from mmjax.sample.text import TextDecoding, generate_text

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("length", 64), ("batch", 16), ("width", 512), ("layers", 6), ("vocabulary", 8192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    decoder = TextDecoder(a.vocabulary, a.width, a.layers, a.width // 64)
    key, other = jax.random.split(jax.random.key(0))
    context = jax.random.normal(key, (a.batch, 196, a.width))
    params = jax.jit(decoder.init)(other, jnp.zeros((a.batch, a.length), jnp.int32), context)
    decoding, seeds = TextDecoding(length=a.length), jnp.zeros(a.batch, jnp.int32)

    def call(method: str, *given: Any) -> Any:
        return decoder.apply(params, *given, method=method)

    @jax.jit
    def kept(context: jax.Array) -> jax.Array:
        first, cache = call("prefill", context, a.length)
        return generate_text(
            first, cache, lambda token, cache: call("step", token, cache), gather_cache, decoding, seeds
        )

    @jax.jit
    def recomputed(context: jax.Array) -> jax.Array:
        def step(token: jax.Array, cache: Any) -> Any:
            texts, place = cache
            texts = jax.lax.dynamic_update_slice_in_dim(texts, token[:, None], place, 1)
            logits = call("__call__", texts, context)
            return jax.lax.dynamic_index_in_dim(logits, place + 1, 1, keepdims=False), (texts, place + 1)

        texts = jnp.zeros((a.batch, a.length), jnp.int32)
        first = call("__call__", texts, context)[:, 0]
        return generate_text(first, (texts, jnp.int32(0)), step, lambda cache, rows: cache, decoding, seeds)

    ways = {"kept": kept, "recomputed": recomputed}
    texts = {name: np.asarray(run(context)) for name, run in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(context))
            seconds[name].append(time.perf_counter() - begin)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    equal = float((texts["kept"] == texts["recomputed"]).mean())
    tokens = int((texts["kept"] != 0).sum(axis=1).max())
    print(f"{a.batch} texts of {tokens} tokens, width {a.width}, {a.layers} layers; {equal:.1%} of the tokens equal")
    cached, recomputed = middle["kept"], middle["recomputed"]
    print(f"kept {cached:.3f} s, recomputed {recomputed:.3f} s, ratio {recomputed / cached:.1f}")


if __name__ == "__main__":
    main()
