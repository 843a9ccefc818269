"""Sampling from a direct generator: one deterministic forward pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from mmjax.sample.chunks import in_chunks
from mmjax.sample.postprocess import to_uint8
from mmjax.types import Outputs, Params


def draw(
    apply: Callable[..., Outputs],
    params: Params,
    text: Int[np.ndarray, "b t"],
    reference: Float[np.ndarray, "b y x c"] | None = None,
) -> UInt8[np.ndarray, "b y x c"]:
    """Generates one image for each text.

    Args:
        apply: the compiled apply(params, text=..., reference=...) -> {"image": ...}.
        text: token ids.
        reference: reference images, -1 to 1.
    """
    inputs = {"text": text} if reference is None else {"text": text, "reference": reference}

    def image(*values: np.ndarray) -> Any:
        return apply(params, **dict(zip(inputs, values, strict=True)))["image"]

    return to_uint8(in_chunks(image, *inputs.values()))
