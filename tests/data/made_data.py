"""Small data sets that the tests of mmjax.data read, made by Pillow and TFDS."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmjax.config import Config, resolve


def picture(number: int, height: int = 41, width: int = 53) -> np.ndarray:
    """A smooth color picture that tells its number, uint8 [y, x, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, np.full_like(x, number * 37 % 256, dtype=float)]
    return np.stack(channels, -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(number: int, **size: int) -> bytes:
    return encoded(Image.fromarray(picture(number, **size)), "JPEG", quality=95)


def write_coco(
    root: Path, split: str, pictures: Mapping[int, bytes | None], captions: Mapping[int, Sequence[str]] | None = None
) -> Path:
    """A COCO folder; a picture of None is named by the annotations but absent. Without captions, five each."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    prefix = "COCO_train2014_" if split == "train2014" else ""
    for number, content in pictures.items():
        if content is not None:
            (root / split / f"{prefix}{number:012d}.jpg").write_bytes(content)
    texts = captions or {number: [f"picture {number} caption {i}" for i in range(5)] for number in pictures}
    images = [{"id": number, "file_name": f"{prefix}{number:012d}.jpg"} for number in pictures]
    pairs = [(number, text) for number, row in texts.items() for text in row]
    annotations = [{"id": i, "image_id": number, "caption": text} for i, (number, text) in enumerate(pairs)]
    tree = {"info": {}, "images": images[::-1], "annotations": annotations}
    (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(tree))
    return root


def recipe(source: str, root: str | Path = "", batch: int = 5, seed: int = 3, **data: Any) -> Config:
    fields = {"source": source, "root": str(root), "size": 32 if source == "scenes" else 16, **data}
    return resolve(
        {
            "data": fields,
            "seed": seed,
            "train": {"batch": batch, "steps": 1},
            "evaluate": {"batch": batch},
            "text": {"length": 13},
        }
    )
