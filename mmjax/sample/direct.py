"""Sampling from a direct generator: one deterministic forward pass."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from mmjax.sample.chunks import per_example
from mmjax.sample.postprocess import to_uint8
from mmjax.types import Outputs, Params


def make_draw(apply: Callable[..., Outputs]) -> Callable[..., UInt8[np.ndarray, "b y x c"]]:
    """The compiled function draw(params, text, reference=None) -> images, one for each text.

    `text` holds token ids, int32 [b, t]; `reference` images, float32 [b, y, x, c] from -1 to 1.

    Args:
        apply: (params, text=..., reference=...) -> {"image": ...}.
    """

    def image(params: Params, *values: jax.Array) -> jax.Array:
        return apply(params, **dict(zip(("text", "reference"), values, strict=False)))["image"]

    program = per_example(image)

    def draw(
        params: Params, text: Int[np.ndarray, "b t"], reference: Float[np.ndarray, "b y x c"] | None = None
    ) -> UInt8[np.ndarray, "b y x c"]:
        given: list[Any] = [text] if reference is None else [text, reference]
        return to_uint8(program(params, *given))

    return draw
