"""The model whose folder the tests here read and damage, and what it is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax.types import UserError

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "name": "small",
    "data": {"size": 32},
    "text": {"length": 11, "vocabulary": 320},
    "model": {"width": 16, "heads": 2, "text_layers": 1, "vision_layers": 1, "fusion_layers": 1,
              "decoder_widths": [8, 8]},
    "train": {"steps": 7},
}  # fmt: skip
PROMPTS = ["a small red circle", "a large blue square", "a green triangle"]
REFERENCE = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)


def told(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)
