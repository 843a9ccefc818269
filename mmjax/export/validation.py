"""Checks of what a model is asked for."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int32

from mmjax.types import UserError


def texts_of(name: str, texts: Any, example: str = "a red circle left of a blue square") -> list[str]:
    """A list of texts.

    Raises:
        UserError: for none, or other than texts.
    """
    found = [] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if not found:
        raise UserError(f'{name}: give a list of at least one text, as in ["{example}"]')
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"{name}: each must be a text, and number {i} (from 0) is a {type(text).__name__}")
    return found


def seeds_of(seed: Any, count: int, of: str = "prompts") -> Int32[np.ndarray, "n"]:
    """A seed for each example: those that are given, or consecutive ones from that on.

    Raises:
        UserError: for other than whole numbers, or another number of them.
    """
    seeds = np.asarray(seed)
    if not np.issubdtype(seeds.dtype, np.integer) or seeds.shape not in ((), (count,)):
        raise UserError(f"seed: must be a whole number, or one for each of the {count} {of}, not {seed!r}")
    # Any whole number will do; what is random takes 32 bits of it.
    return ((seeds + np.arange(count) if seeds.ndim == 0 else seeds) % 2**31).astype(np.int32)
