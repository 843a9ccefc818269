"""Checks of prompts and seeds."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int32

from mmjax.types import UserError


def texts_of(name: str, texts: Any, example: str = "a red circle left of a blue square") -> list[str]:
    """Checks and lists texts.

    Raises:
        UserError: for none, or anything but texts.
    """
    checked = [] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if not checked:
        raise UserError(f'{name}: give a list of at least one text, as in ["{example}"]')
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            raise UserError(f"{name}: each must be a text, and number {i} (from 0) is a {type(text).__name__}")
    return checked


def seeds_of(seed: Any, count: int, of: str = "prompts") -> Int32[np.ndarray, "n"]:
    """Returns a seed per example: those given, or consecutive ones from a single one.

    Raises:
        UserError: for anything but one whole number or one per example.
    """
    seeds = np.asarray(seed)
    if not np.issubdtype(seeds.dtype, np.integer) or seeds.shape not in ((), (count,)):
        raise UserError(f"seed: must be a whole number, or one for each of the {count} {of}, not {seed!r}")
    # Random keys take 32 bits.
    return ((seeds + np.arange(count) if seeds.ndim == 0 else seeds) % 2**31).astype(np.int32)
