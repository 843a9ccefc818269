"""A source of a user's own: people, each with a garment, a mask, boxes and a smaller image. See docs/data.md.

ROOT/SPLIT/ holds NAME.png and NAME.json, and NAME-garment.png and NAME-mask.png beside.
"""

import json
from pathlib import Path

import numpy as np

from mmjax.config import DataConfig
from mmjax.data.random_access import read_examples
from mmjax.data.source import Examples, Source, SourceSpec
from mmjax.types import Feature


def features(config: DataConfig) -> dict[str, Feature]:
    size, small = config.size, config.size // 2
    return {
        "image": Feature("image", (size, size, 3)),
        "low_resolution": Feature("image", (small, small, 3), of="image"),
        "person_mask": Feature("mask", (size, size), of="image"),
        "parts": Feature("boxes", (int(config.options.get("boxes", 3)), 4), of="image"),
        "garment": Feature("image", (size + 2, size - 2, 3)),
        "measures": Feature("array", (2,), dtype="int32"),
        "text": Feature("text"),
    }


def open_outfits(config: DataConfig, training: bool, seed: int) -> Source:
    folder = Path(config.root) / config.split(training)
    names = sorted(path.stem for path in folder.glob("*.json"))
    told = [json.loads((folder / f"{name}.json").read_text()) for name in names]

    def load(index: int) -> Examples:
        person, boxes = (folder / f"{names[index]}.png").read_bytes(), told[index]["boxes"]
        return {
            "image": person,
            "low_resolution": person,
            "person_mask": (folder / f"{names[index]}-mask.png").read_bytes(),
            "parts": np.array(boxes, np.float32).reshape(-1, 4),
            "garment": (folder / f"{names[index]}-garment.png").read_bytes(),
            "measures": told[index]["measures"],
        }

    def columns(indices: list[int]) -> Examples:
        return {"id": [names[i] for i in indices], "captions": [[told[i]["caption"]] for i in indices]}

    read = read_examples(np.arange(len(names)), load, columns, features(config))
    return Source(config.source, len(names), features(config), lambda: (row["caption"] for row in told), read)


SOURCE = SourceSpec(features, open_outfits, settings=("options",))
