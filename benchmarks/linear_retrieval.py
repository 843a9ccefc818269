"""A linear baseline for retrieval: ridge regression from colors and edges of images to words of captions.

    python benchmarks/linear_retrieval.py FOLDER

Prints R@5 on the evaluation images of `configs/coco_contrastive.py:size=64` for several penalties, by the same
evaluator as for models. A model trained on as few images that is worse has overfitted.
"""

import argparse
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from mmjax import data
from mmjax.config import Config, load_config
from mmjax.evaluate.retrieval import retrieval
from mmjax.types import Batch

CONFIG = "configs/coco_contrastive.py:size=64"
PENALTIES = (1000, 3000, 10_000, 30_000)
PARTS = 4  # along each side of an image
BRIGHT, HUES, DIRECTIONS = 4, 8, 9
COMMON = {"a", "an", "and", "are", "at", "by", "for", "in", "is", "it", "of", "on", "that", "the", "this", "to", "with"}


def features(image: np.ndarray) -> np.ndarray:
    """Features of an image, float32 [y, x, 3] from -1 to 1: color means and deviations by part, colors, and edges."""
    lab = cv2.cvtColor((image + 1) / 2, cv2.COLOR_RGB2Lab)
    side = len(lab) // PARTS
    parts = lab.reshape(PARTS, side, PARTS, side, 3).swapaxes(1, 2).reshape(PARTS**2, side**2, 3)
    bright, *hues = np.floor(np.moveaxis(lab, 2, 0) / [[[25]], [[10]], [[10]]] + [[[0]], [[4]], [[4]]])
    bins = np.clip(bright, 0, BRIGHT - 1)
    for hue in hues:
        bins = bins * HUES + np.clip(hue, 0, HUES - 1)
    colors = np.bincount(bins.astype(int).ravel(), minlength=BRIGHT * HUES**2) / bins.size
    down, right = np.gradient(lab[..., 0])
    angle = (np.arctan2(down, right) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    where = np.arange(PARTS**2).reshape(PARTS, PARTS).repeat(side, 0).repeat(side, 1) * DIRECTIONS + angle
    edges = np.bincount(where.ravel(), np.hypot(down, right).ravel(), PARTS**2 * DIRECTIONS)
    return np.concatenate([parts.mean(axis=1).ravel(), parts.std(axis=1).ravel(), np.sqrt(colors), edges])


def words(caption: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall("[a-z]+", caption.lower())} - COMMON


def batches_of(config: Config, split: str) -> Callable[[], Iterable[Batch]]:
    """Of the center crops of all images of a split."""
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, evaluation_split=split))
    source = data.open_source(config.data, training=False, seed=config.seed)
    tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), 400))
    return lambda: data.evaluation_batches(source, tokenizer, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a COCO folder")
    config = load_config(CONFIG, {"data.root": parser.parse_args().folder})
    x, captions = [], []
    for batch in batches_of(config, config.data.train_split)():
        for i in np.flatnonzero(batch["mask"]):
            x += [features(batch["image"][i]), features(batch["image"][i, :, ::-1])]  # mirrored as well
            captions += 2 * [set().union(*map(words, batch["captions"][i]))]
    x = np.array(x)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    x = (x - mean) / deviation
    counts = Counter(word for said in captions for word in said)
    vocabulary = [word for word, count in counts.items() if count > 2]
    rarity = np.array([np.log(len(captions) / counts[word]) for word in vocabulary])

    def unit(vectors: np.ndarray) -> np.ndarray:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)

    def said(texts: Iterable[set[str]]) -> np.ndarray:
        return unit(np.array([[word in text for word in vocabulary] for text in texts]) * rarity)

    y = said(captions)
    for penalty in PENALTIES:
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - y.mean(axis=0)))

        def predict(batch: Batch, weights: np.ndarray = weights) -> dict[str, np.ndarray]:
            seen = (np.array([features(image) for image in batch["image"]]) - mean) / deviation
            return {"image_embedding": unit(seen @ weights), "text_embedding": said(map(words, batch["text"]))}

        metrics = dict(retrieval(predict, batches_of(config, config.data.evaluation_split)))
        told = ", ".join(f"{name} {metric:.3f}" for name, metric in metrics.items() if name.endswith("r5"))
        print(f"penalty {penalty:,}: {told}")


if __name__ == "__main__":
    main()
