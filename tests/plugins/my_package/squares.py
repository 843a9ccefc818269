"""Squares of one color, with the name of the color as their caption and the color itself as a field of its own."""

from typing import Any

import numpy as np

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.data.random_access import read_examples
from mmjax.data.source import TEXT, Source, SourceSpec, image_feature
from mmjax.types import Feature

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
NAMES = tuple(COLORS)


def features(config: DataConfig) -> dict[str, Feature]:
    return {"image": image_feature(config), "color": Feature("array", (3,)), "text": TEXT}


def check(config: DataConfig, field: str) -> None:
    require(config.options.get("examples", 0) > 0, f"{field}.options.examples: must be above 0")


def open_squares(config: DataConfig, training: bool, seed: int) -> Source:
    keys = np.arange(config.options["examples"] if training else len(NAMES))

    def load(index: int) -> dict[str, Any]:
        """The example of an index; the image may be encoded, and of any size."""
        color = np.array(COLORS[NAMES[index % len(NAMES)]], np.uint8)
        return {"image": np.tile(color, (40, 50, 1)), "color": color / np.float32(127.5) - np.float32(1)}

    def columns(indices: list[int]) -> dict[str, list[Any]]:
        names = [NAMES[index % len(NAMES)] for index in indices]
        return {"id": list(map(str, indices)), "captions": [[f"a {name} square", name] for name in names]}

    read = read_examples(keys, load, columns, features(config))
    return Source("squares", len(keys), features(config), lambda: (f"a {name} square" for name in NAMES), read)


SOURCE = SourceSpec(features, open_squares, check, settings=("options",), needs_root=False)
