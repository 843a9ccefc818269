"""Drawing with the direct generator: one pass, no randomness."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from mmjax.sample.postprocess import to_uint8
from mmjax.types import Outputs, Params

CHUNK = 16  # always computed together, so that a picture does not depend on how many are asked for


def draw(
    apply: Callable[..., Outputs],
    params: Params,
    text: Int[np.ndarray, "b t"],
    reference: Float[np.ndarray, "b y x c"] | None = None,
) -> UInt8[np.ndarray, "b y x c"]:
    """One picture for each text, in chunks of 16.

    Args:
        apply: the compiled apply(params, text=..., reference=...) -> {"image": ...}.
        text: token ids.
        reference: pictures to start from, -1 to 1.
    """
    pictures = []
    for start in range(0, len(text), CHUNK):
        seen: dict[str, Any] = {"text": text[start : start + CHUNK]}
        if reference is not None:
            seen["reference"] = reference[start : start + CHUNK]
        count = len(seen["text"])
        padded = {name: np.concatenate([x, np.repeat(x[:1], CHUNK - count, axis=0)]) for name, x in seen.items()}
        image = jax.device_get(apply(params, **padded)["image"])
        pictures.append(to_uint8(image[:count]))
    return np.concatenate(pictures)
