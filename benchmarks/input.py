"""Images per second from COCO's JPEGs to training batches, compared with other input pipelines.

    python benchmarks/input.py [FOLDER] [--rounds N] [--seconds S]

FOLDER is a COCO folder; without it images of 640 x 480 are made. Every pipeline reads the files, resizes the short side
to 293 pixels, crops 256 x 256 at random, flips half of them and gives float32 batches of 32:

    mmjax     training_batches, with captions and their tokens
    torch     PyTorch's DataLoader with Pillow, a worker per core (left out if PyTorch is not installed)
    tf.data   decode_jpeg, resize with antialias, random crop and flip, mapped in parallel
    decode    libjpeg-turbo alone, at the smallest scale above 293 pixels, a thread per core: the upper bound

They run alternately, some seconds each, so that other load affects all alike. Printed are medians over the rounds:
images per second, CPU seconds per image (which hardly depend on other load), both relative to mmjax, and the mean
difference of mmjax's pixels from a full decode with antialiased resize.
"""

import argparse
import io
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image
from token_cache import make_images

from mmjax import data
from mmjax.config import Config, resolve
from mmjax.data.decoding import cores
from mmjax.data.image import crop_window, decode, resized_crop

RESIZE, SIZE, BATCH, AHEAD = 293, 256, 32, 5
PAUSE, IDLE = 0.2, 0.1  # seconds, and the share of a core below which nothing happens


def mmjax_batches(config: Config) -> Iterator[np.ndarray]:
    source = data.open_source(config.data, training=True, seed=0)
    tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), 500))
    for batch in data.training_batches(source, tokenizer, config):
        yield batch["image"]


class Images:
    """A data set as PyTorch wants it; the transforms are those of torchvision, written out."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> object:
        import torch

        with open(self.paths[index % len(self.paths)], "rb") as file:
            image = Image.open(file).convert("RGB")
        scale = RESIZE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = random.randint(0, image.width - SIZE), random.randint(0, image.height - SIZE)
        image = image.crop((left, top, left + SIZE, top + SIZE))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(0.5).div_(0.5)


def torch_batches(paths: list[Path]) -> Iterator[object]:
    from torch.utils.data import DataLoader

    yield from DataLoader(Images(paths), BATCH, num_workers=cores(), drop_last=True, multiprocessing_context="fork")


def tensorflow_batches(paths: list[Path]) -> Iterator[np.ndarray]:
    import tensorflow as tf

    def prepare(path: object) -> object:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        whole = tf.cast(tf.round(shape * RESIZE / tf.reduce_min(shape)), tf.int32)
        image = tf.image.random_crop(tf.image.resize(image, whole, antialias=True), [SIZE, SIZE, 3])
        return tf.image.random_flip_left_right(image) / 127.5 - 1

    files = tf.data.Dataset.from_tensor_slices([str(path) for path in paths]).repeat().shuffle(len(paths))
    yield from files.map(prepare, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def decoded_batches(paths: list[Path]) -> Iterator[list[np.ndarray]]:
    def decoded(path: Path) -> np.ndarray:
        return simplejpeg.decode_jpeg(path.read_bytes(), min_height=RESIZE, min_width=RESIZE, strict=False)

    with ThreadPoolExecutor(cores()) as pool:
        at, ahead = 0, []
        while True:
            while len(ahead) < 3:
                ahead.append([pool.submit(decoded, paths[(at + i) % len(paths)]) for i in range(BATCH)])
                at += BATCH
            yield [future.result() for future in ahead.pop(0)]


def cpu_seconds() -> float:
    """Of this process and of those that it started, also the living ones (Linux)."""
    me, ticks = os.getpid(), os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == me:
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def measure(batches: Iterator[object], seconds: float) -> tuple[float, float]:
    """Images a second, and CPU seconds an image, after those that are made ahead."""
    for _ in range(AHEAD):
        next(batches)
    cpu, begin, count = cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += BATCH
    passed = time.perf_counter() - begin
    found = count / passed, (cpu_seconds() - cpu) / count
    wait_until_idle()
    return found


def wait_until_idle() -> None:
    """Waits until nothing is made ahead any more: it would count as work of whatever comes next."""
    before = -1.0
    while (now := cpu_seconds()) - before > IDLE * PAUSE:
        before = now
        time.sleep(PAUSE)


def difference(paths: list[Path]) -> float:
    """Of the center crop, from 0 to 255."""
    errors = []
    for path in paths[:100]:
        content = path.read_bytes()
        seen = decode(content, RESIZE, str(path))
        whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)
        height, width, _ = seen.shape
        top, left, rows, columns = crop_window(height, width, (SIZE, SIZE), Fraction(RESIZE, SIZE))
        scale = min(whole.shape[:2]) / min(seen.shape[:2])
        box = tuple(scale * value for value in (left, top, left + columns, top + rows))
        for channel in range(3):
            exact = Image.fromarray(whole[..., channel]).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
            errors.append(np.abs(resized_crop(seen, RESIZE, SIZE)[..., channel] - np.asarray(exact)).mean())
    return float(np.mean(errors))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or str(make_images(Path(temporary) / "coco"))
        split = "train2017" if (Path(root) / "train2017").is_dir() else "val2017"
        paths = sorted((Path(root) / split).glob("*.jpg"))
        fields = {"source": "coco_folder", "root": root, "train_split": split, "size": SIZE, "flip": True}
        config = resolve({"data": fields | {"resize": RESIZE}, "train": {"batch": BATCH, "steps": 1}})
        ways: dict[str, Callable[[], Iterator[object]]] = {
            "torch": lambda: torch_batches(paths),  # first: its workers are copies of this process
            "mmjax": lambda: mmjax_batches(config),
            "tf.data": lambda: tensorflow_batches(paths),
            "decode": lambda: decoded_batches(paths),
        }
        metrics: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        running = {name: make() for name, make in ways.items()}
        for _ in range(arguments.rounds):
            for name in list(running):
                try:
                    metrics[name].append(measure(running[name], arguments.seconds))
                except ImportError as error:
                    print(f"{name}: left out, {error}")
                    del running[name], metrics[name]
        print(
            f"{len(paths):,} images of {split}, {cores()} cores, {arguments.rounds} rounds of {arguments.seconds:g} s"
        )
        print(f"{'':8}{'images/s':>12}{'mmjax is':>10}{'CPU ms':>10}{'mmjax is':>10}")
        middle = {
            name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in metrics.items()
        }
        for name, (rate, cpu) in middle.items():
            times, saves = middle["mmjax"][0] / rate, cpu / middle["mmjax"][1]
            print(f"{name:8}{rate:12.0f}{times:9.2f}x{1000 * cpu:10.2f}{saves:9.2f}x")
        print(f"pixels differ from a full decode with antialiased resize by {difference(paths):.2f} of 255 on average")
        for batches in running.values():
            batches.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
