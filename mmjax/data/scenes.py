"""Drawn scenes as a source, pictures or, where they move, clips: NumPy only."""

import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from mmjax.config import Data
from mmjax.data.source import Reading, Rows, Source, epoch_order
from mmjax.scenes import draw, motion
from mmjax.scenes.grammar import caption

PROVIDES = ("image", "text", "scene")
EVALUATION_EXAMPLES = 512
KEPT_BYTES = 2**30  # drawing takes longer than anything else here, so pictures are kept, up to this much of them


def open_scenes(config: Data, training: bool, seed: int) -> Source:
    """Scenes never held out for training; for evaluation, only held-out combinations of shape, color and relation.

    Where config.frames is above 1 they are clips of moving scenes, whose captions leave radius, place and speed open.
    Examples are drawn independently of each other: where the captions determine the pictures, some occur repeatedly.
    """
    size = config.scenes.examples if training else EVALUATION_EXAMPLES
    frames, determined = config.frames, config.scenes.determined
    keep = KEPT_BYTES // (3 * config.size**2 * frames)
    drawn: dict[int, tuple[UInt8[np.ndarray, "*f y x 3"], str]] = {}

    def example(index: int) -> tuple[UInt8[np.ndarray, "*f y x 3"], str]:
        if index in drawn:
            return drawn[index]
        if frames > 1:
            pair = motion.example(index, config.size, frames, seed, not training)
        else:
            pair = draw.example(index, config.size, seed, determined, not training)
        if len(drawn) < keep:
            drawn[index] = pair
        return pair

    def all_captions() -> Iterator[str]:
        if frames > 1:
            return (motion.caption(motion.example_scene(i, seed, not training)[0]) for i in range(size))
        return (caption(draw.example_scene(i, seed, determined, not training)[0]) for i in range(size))

    def read(reading: Reading) -> Iterator[Rows]:
        order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, reading, size))
        for positions in reading.positions():
            epochs, places = np.divmod(positions, size)
            keys = np.array([order(int(e))[p] for e, p in zip(epochs, places, strict=True)], np.int64)
            images, captions = zip(*(example(int(key)) for key in keys), strict=True)
            yield {
                "image": np.stack(images).astype(np.float32) / np.float32(127.5) - np.float32(1),
                "mask": np.ones(keys.shape, np.bool_),
                "key": keys,
                "epoch": epochs,
                "id": [f"{'scene' if training else 'held-out-scene'}-{key}" for key in keys],
                "captions": [[caption] for caption in captions],
            }

    return Source("scenes", size, PROVIDES, all_captions, read)
