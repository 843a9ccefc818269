"""Codebook usage, counted by hand."""

import numpy as np
import pytest

from mmjax.config import resolve
from mmjax.evaluate import build
from mmjax.evaluate.reconstruction import codes
from mmjax.types import UserError


def test_code_usage() -> None:
    batches = [{"mask": np.array([True, True])}, {"mask": np.array([True, False])}]
    found = {id(batches[0]): np.array([[0, 1, 1], [1, 2, 2]]), id(batches[1]): np.array([[2, 6, 6], [3, 4, 5]])}
    metrics = dict(codes(8)(lambda batch: {"codes": found[id(batch)]}, lambda: batches))
    assert metrics == {"tokenizer/code_usage": 4 / 8}  # 0, 1, 2 and 6; the last row is padding


def test_only_for_visual_tokenizers() -> None:
    evaluators = {"evaluate": {"evaluators": ("codes",)}, "train": {"steps": 1}}
    assert "codes" in build(resolve(evaluators | {"model": {"kind": "visual_tokenizer"}}))
    with pytest.raises(UserError, match=r"evaluate\.evaluators: codes .*model\.kind=direct_generator"):
        build(resolve(evaluators))
