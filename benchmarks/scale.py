"""Time and memory to open a data set of COCO's size: the index, the first batch and a million captions.

    python benchmarks/scale.py FOLDER [--rounds N]

FOLDER is made if it is missing: a COCO folder of 120,000 images of 64 x 48 pixels (hard links to 1,000 different files)
with 600,000 captions as long as COCO's, another of 200,000 images with a million, and what mmjax prepare --to makes of
both. About 2 GB, kept for the next run. Each metric is the median over N fresh processes, of wall-clock time and of CPU
seconds over all threads, which hardly depend on other load:

    open        from the call of open_source, with mmjax imported, to the source: the index
    first       from there to the first batch of 32 at 32 pixels: lazy imports, the order of the epoch, reading,
                decoding, resizing, captions sampled and tokenized
    next        from there to the second batch
    command     from the start of the process to the first batch, including Python and JAX
    memory      peak memory until it was open, above that with everything imported (MB)
"""

import argparse
import functools
import io
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"coco": 120_000, "million": 200_000}
IMAGES, CAPTIONS, WORDS = 1000, 5, 11  # different images; captions an image, words a caption: 52 letters, as COCO
COLUMNS = ("open", "first", "next", "command")

PROGRAM = """
import json, sys, time
from pathlib import Path
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
def now():
    return time.time(), time.process_time()
begin = float(sys.argv[3]), 0.0
from mmjax import data
from mmjax.config import resolve
fields = {"source": sys.argv[1], "root": sys.argv[2], "size": 32}
config = resolve({"data": fields, "train": {"batch": 32, "steps": 1}})
tokenizer = data.load_tokenizer(sys.argv[2] + "/../tokenizer.model")
empty = peak()
times = [now()]
source = data.open_source(config.data, True, 0)
times.append(now())
memory = peak() - empty
batches = data.training_batches(source, tokenizer, config)
for _ in range(2):
    assert next(batches)["mask"].all()
    times.append(now())
spans = {"open": times[:2], "first": times[1:3], "next": times[2:4], "command": [begin, times[2]]}
row = {name: [b - a for a, b in zip(*span)] for name, span in spans.items()}
assert "tensorflow" not in sys.modules
print(json.dumps(row | {"memory": [memory, memory]}))
"""


def make(folder: Path, images: int) -> None:
    """A COCO folder; the files lie there IMAGES times, and are linked."""
    root = folder / "coco"
    (root / "annotations").mkdir(parents=True)
    rng = random.Random(images)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 7))) for _ in range(5000)]
    for split, count in (("train2017", images), ("val2017", 100)):
        (root / split).mkdir()
        for i in range(min(IMAGES, count)):
            pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).resize((64, 48)).save(file, "JPEG")
            (root / split / f"{i:012d}.jpg").write_bytes(file.getvalue())
        for i in range(IMAGES, count):
            os.link(root / split / f"{i % IMAGES:012d}.jpg", root / split / f"{i:012d}.jpg")
        entries = [
            {"license": 3, "file_name": f"{i:012d}.jpg", "coco_url": f"http://images.cocodataset.org/{i:012d}.jpg",
             "height": 48, "width": 64, "date_captured": "2013-11-14 17:02:52", "id": i}
            for i in range(count)
        ]  # fmt: skip
        annotations = [
            {"image_id": i % count, "id": i, "caption": " ".join(rng.choices(words, k=WORDS))}
            for i in range(CAPTIONS * count)
        ]
        tree = {"info": {}, "licenses": [], "images": entries, "annotations": annotations}
        (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(tree))


def prepare(folder: Path) -> None:
    """Makes the text tokenizer, and the shards without recompressing every image."""
    from mmjax import data
    from mmjax.config import resolve
    from mmjax.data import packed

    packed.recompress = lambda content, name, resize: content
    config = resolve({"data": {"source": "coco_folder", "root": str(folder / "coco")}, "train": {"steps": 1}})
    source = data.open_source(config.data, True, 0)
    (folder / "tokenizer.model").write_bytes(data.train_tokenizer(source.all_captions(), 1000))
    data.write_packed(folder / "prepared", data.open_raw(config.data))


def measure(source: str, root: Path) -> dict[str, list[float]]:
    command = [sys.executable, "-c", PROGRAM, source, str(root), str(time.time())]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cases = []
    for name, images in SIZES.items():
        folder = arguments.folder / name
        for step, run in (("made", functools.partial(make, images=images)), ("prepared", prepare)):
            if not (folder / f".{step}").exists():
                begin = time.time()
                run(folder)
                (folder / f".{step}").touch()
                print(f"{folder}: {step} in {time.time() - begin:.0f} s")
        cases += [(images, "coco_folder", folder / "coco"), (images, "coco_packed", folder / "prepared")]
    rows: dict[tuple[int, str], list[dict[str, list[float]]]] = {case[:2]: [] for case in cases}
    for _ in range(arguments.rounds):
        for images, source, root in cases:
            rows[images, source].append(measure(source, root))
    print(f"{'images':>10}{'captions':>11} {'passed, CPU':14}" + "".join(f"{c:>16}" for c in COLUMNS) + "    memory")
    for (images, source), told in rows.items():
        middle = {
            name: [statistics.median(column) for column in zip(*(row[name] for row in told), strict=True)]
            for name in (*COLUMNS, "memory")
        }
        metrics = "".join(f"{middle[name][0]:8.2f}s{middle[name][1]:6.2f}s" for name in COLUMNS)
        print(f"{images:10,}{CAPTIONS * images:11,} {source:14}{metrics}{middle['memory'][0]:7.0f} MB")


if __name__ == "__main__":
    main()
