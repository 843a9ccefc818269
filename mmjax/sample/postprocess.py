"""From a model's floats to pictures."""

import numpy as np
from jaxtyping import Float, UInt8


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Pictures of any shape from -1 (black) to 1 (white) as 0 to 255, rounded and clipped; not-a-number is black."""
    scaled = (np.asarray(image, np.float32) + 1) * 127.5
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)
