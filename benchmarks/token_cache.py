"""Batches per second from cached tokens, compared with decoding images.

    python benchmarks/token_cache.py [FOLDER]

Takes a COCO folder's validation images at 256 pixels, or makes JPEG images of 640 x 480, and random codes of 16 x 16
from 1,024. Prints both rates and their ratio.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mmjax import data
from mmjax.config import Config, resolve

SIZE, BATCH, BATCHES, IMAGES = 256, 64, 8, 512


def make_images(root: Path, count: int = IMAGES) -> Path:
    """A COCO folder of smooth images with some noise, five captions each."""
    rng = np.random.default_rng(0)
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for n in range(count):
        image = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        image.save(root / "val2017" / f"{n}.jpg", quality=92)
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(count)]
    captions = [{"id": 5 * n + i, "image_id": n, "caption": f"image {n}, {i}"} for n in range(count) for i in range(5)]
    tree = {"images": images, "annotations": captions}
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(tree))
    return root


def encode(image: np.ndarray) -> dict[str, np.ndarray]:
    return {"codes": np.arange(len(image) * 256, dtype=np.int32).reshape(-1, 16, 16) % 1024}


def rate(source: data.Source, tokenizer: data.Tokenizer, config: Config, batches: int) -> float:
    """Batches a second, after the first few."""
    stream = data.training_batches(source, tokenizer, config)
    for _ in range(4):  # some are made ahead
        next(stream)
    begin = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return batches / (time.perf_counter() - begin)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = sys.argv[1] if sys.argv[1:] else str(make_images(Path(temporary) / "coco"))
        fields = {"source": "coco_folder", "root": root, "train_split": "validation", "size": SIZE, "flip": True}
        config = resolve({"data": fields, "train": {"batch": BATCH, "steps": 1}})
        images = data.open_source(config.data, training=True, seed=0)
        tokenizer = data.load_tokenizer(data.train_tokenizer(images.all_captions(), 500))
        folder, key = Path(temporary) / "tokens", {"made": "here"}
        data.write_tokens(folder, key, images, config, "train", encode)
        begin = time.perf_counter()
        tokens = data.open_tokens(folder, key)
        opened = time.perf_counter() - begin
        decoding = rate(images, tokenizer, config, BATCHES)
        cached = rate(tokens, tokenizer, config, 50 * BATCHES)
        print(f"{images.size:,} images at {SIZE} pixels, batches of {BATCH}; cache opened in {opened:.2f} s")
        print(f"decoding {decoding:.2f} batches/s, cached {cached:.1f} batches/s, ratio {cached / decoding:.0f}")


if __name__ == "__main__":
    main()
