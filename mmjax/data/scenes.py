"""Drawn scenes as a source, images or, where they move, clips: NumPy only."""

import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from mmjax.config import DataConfig
from mmjax.data.source import Reading, Rows, Source, epoch_order
from mmjax.scenes import draw, motion, questions
from mmjax.scenes.grammar import caption

PROVIDES = ("image", "text", "scene")
PROVIDES_QUESTIONS = (*PROVIDES, "question")
EVALUATION_EXAMPLES = 512
KEPT_BYTES = 2**30  # drawing takes longer than anything else here, so images are kept, up to this much of them


def open_scenes(config: DataConfig, training: bool, seed: int) -> Source:
    """Scenes never held out for training; for evaluation, only held-out combinations of shape, color and relation.

    Where config.frames is above 1 they are clips of moving scenes, whose captions leave radius, place and speed open.
    Examples are drawn independently of each other: where the captions determine the images, some occur repeatedly.
    With config.scenes.questions there are one, two or three things, a caption only of two, and a question, another
    each epoch.
    """
    size = config.scenes.examples if training else EVALUATION_EXAMPLES
    frames, fully_specified, asking = config.frames, config.scenes.fully_specified, config.scenes.questions
    keep = KEPT_BYTES // (3 * config.size**2 * frames)
    drawn: dict[int, tuple[UInt8[np.ndarray, "*f y x 3"], list[str], questions.Shown | None]] = {}

    def shown(index: int) -> questions.Shown:
        return questions.example_scene(index, seed, fully_specified, not training)

    def example(index: int) -> tuple[UInt8[np.ndarray, "*f y x 3"], list[str], questions.Shown | None]:
        if index in drawn:
            return drawn[index]
        scene = None
        if asking:
            scene = shown(index)
            image, captions = draw.draw_things(scene.things, config.size), scene.captions
        else:
            if frames > 1:
                image, text = motion.example(index, config.size, frames, seed, not training)
            else:
                image, text = draw.example(index, config.size, seed, fully_specified, not training)
            captions = [text]
        if len(drawn) < keep:
            drawn[index] = image, captions, scene
        return image, captions, scene

    def all_captions() -> Iterator[str]:
        if asking:
            scenes = ((i, shown(i)) for i in range(size))
            return (text for i, scene in scenes for text in (*scene.captions, *questions.question(i, 0, seed, scene)))
        if frames > 1:
            return (motion.caption(motion.example_scene(i, seed, not training)[0]) for i in range(size))
        return (caption(draw.example_scene(i, seed, fully_specified, not training)[0]) for i in range(size))

    def read(reading: Reading) -> Iterator[Rows]:
        order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, reading, size))
        for positions in reading.positions():
            epochs, places = np.divmod(positions, size)
            keys = np.array([order(int(e))[p] for e, p in zip(epochs, places, strict=True)], np.int64)
            images, captions, scenes = zip(*(example(int(key)) for key in keys), strict=True)
            rows: Rows = {
                "image": np.stack(images).astype(np.float32) / np.float32(127.5) - np.float32(1),
                "mask": np.ones(keys.shape, np.bool_),
                "key": keys,
                "epoch": epochs,
                "id": [f"{'scene' if training else 'held-out-scene'}-{key}" for key in keys],
                "captions": list(captions),
            }
            if asking:
                which = zip(keys.tolist(), epochs.tolist(), scenes, strict=True)
                asked = [questions.question(key, epoch, seed, scene) for key, epoch, scene in which]
                rows |= {"questions": [text for text, _ in asked], "answers": [[answer] for _, answer in asked]}
            yield rows

    return Source("scenes", size, PROVIDES_QUESTIONS if asking else PROVIDES, all_captions, read)
