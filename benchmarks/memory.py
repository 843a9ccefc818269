"""Memory of this process after each of 20 epochs of images, which should not grow (Linux).

    python benchmarks/memory.py [FOLDER] [--epochs N] [--size PIXELS]

FOLDER is a COCO folder; without it images of 640 x 480 are made. Batches of 32 are made and dropped.
"""

import argparse
import os
import tempfile
from pathlib import Path

from token_cache import make_images

from mmjax import data
from mmjax.config import resolve

BATCH = 32


def resident() -> float:
    """The resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or str(make_images(Path(temporary) / "coco"))
        split = "train2017" if (Path(root) / "train2017").is_dir() else "val2017"
        fields = {"source": "coco_folder", "root": root, "train_split": split, "size": arguments.size, "flip": True}
        config = resolve({"data": fields, "train": {"batch": BATCH, "steps": 1}})
        source = data.open_source(config.data, training=True, seed=0)
        tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), 500))
        batches, seen, series = data.training_batches(source, tokenizer, config), 0, [resident()]
        for epoch in range(1, arguments.epochs + 1):
            while seen < epoch * source.size:
                seen += len(next(batches)["id"])
            series.append(resident())
        batches.close()  # type: ignore[attr-defined]
    print(f"{source.size} images of {split} at {arguments.size} pixels, MB before and after each epoch:")
    print(" ".join(f"{value:.0f}" for value in series))
    print(f"from the third epoch to the last {series[-1] - series[3]:+.1f} MB, at most {max(series[3:]):.0f} MB")


if __name__ == "__main__":
    main()
