"""Computation in chunks of a fixed size, so that results do not depend on the number of examples."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

CHUNK = 16  # another batch size would round differently


def in_chunks(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """function(*arrays), computed 16 rows at a time; the last chunk is padded by repetition.

    Args:
        function: compiled, of arrays of 16 rows each, to one array of 16 rows.
        arrays: of equally many rows, at least one.
    """
    results = []
    for start in range(0, len(arrays[0]), CHUNK):
        parts = [array[start : start + CHUNK] for array in arrays]
        count = len(parts[0])
        padded = [np.concatenate([part, np.repeat(part[:1], CHUNK - count, axis=0)]) for part in parts]
        results.append(jax.device_get(function(*padded))[:count])
    return np.concatenate(results)
