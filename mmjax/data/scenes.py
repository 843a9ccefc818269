"""Synthetic scenes as a source of images or clips."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.data.image import normalize
from mmjax.data.random_access import ordered
from mmjax.data.source import TEXT, Examples, ReadSpec, Source, SourceSpec, captioned_images
from mmjax.scenes import draw, motion, questions
from mmjax.scenes.grammar import caption
from mmjax.types import Feature

EVALUATION_EXAMPLES = 512
CACHE_BYTES = 2**30  # of rendered images; rendering dominates the time

Drawn = tuple[UInt8[np.ndarray, "*f y x 3"], list[str], questions.Shown | None]  # image, captions, what is asked about


def features(config: DataConfig) -> dict[str, Feature]:
    base = captioned_images(config) | {"scene": TEXT}
    return base | ({"question": TEXT} if config.scenes.questions else {})


def check(config: DataConfig, field: str) -> None:
    """Raises UserError for invalid settings."""
    require(
        not config.flip, f"{field}.flip: a mirrored scene makes its caption false (left of, right of); set it to false"
    )
    require(
        (config.train_split, config.evaluation_split) == ("train", "validation"),
        f"{field}.train_split, {field}.evaluation_split: scenes have no splits but train and validation",
    )
    require(
        not config.scenes.questions or config.frames == 1,
        f"{field}.scenes.questions: are asked about images, not clips of {config.frames} frames; "
        f"set {field}.frames to 1",
    )
    require(32 <= config.size <= 1024, f"{field}.size: scenes are drawn with 32 to 1,024 pixels, not {config.size}")


def open_scenes(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens scenes; those of evaluation have held-out combinations of shape, color and relation.

    With several frames they are clips of moving scenes, whose captions do not determine radius, position and speed.
    Examples are independent, so fully specified ones may repeat. With config.scenes.questions there are one to three
    objects, a caption only of two, and another question each epoch.
    """
    seed %= 2**32
    size = config.scenes.examples if training else EVALUATION_EXAMPLES
    frames, fully_specified, asking = config.frames, config.scenes.fully_specified, config.scenes.questions
    keep = CACHE_BYTES // (3 * config.size**2 * frames)
    drawn: dict[int, Drawn] = {}

    def shown(index: int) -> questions.Shown:
        return questions.example_scene(index, seed, fully_specified, not training)

    def draw_example(index: int) -> Drawn:
        if asking:
            scene = shown(index)
            return draw.draw_things(scene.things, config.size), scene.captions, scene
        if frames > 1:
            image, text = motion.example(index, config.size, frames, seed, not training)
        else:
            image, text = draw.example(index, config.size, seed, fully_specified, not training)
        return image, [text], None

    def example(index: int) -> Drawn:
        made = drawn.get(index) or draw_example(index)
        if len(drawn) < keep:
            drawn[index] = made
        return made

    def all_captions() -> Iterator[str]:
        if asking:
            scenes = ((i, shown(i)) for i in range(size))
            return (text for i, scene in scenes for text in (*scene.captions, *questions.question(i, 0, seed, scene)))
        if frames > 1:
            return (motion.caption(motion.example_scene(i, seed, not training)[0]) for i in range(size))
        return (caption(draw.example_scene(i, seed, fully_specified, not training)[0]) for i in range(size))

    def read(spec: ReadSpec) -> Iterator[Examples]:
        for epochs, indices in ordered(spec, size):
            keys = np.array(indices, np.int64)
            images, captions, scenes = zip(*map(example, indices), strict=True)
            examples: Examples = {
                "image": normalize(np.stack(images)),
                "mask": np.ones(keys.shape, np.bool_),
                "key": keys,
                "epoch": epochs,
                "id": [f"{'scene' if training else 'held-out-scene'}-{key}" for key in keys],
                "captions": list(captions),
            }
            if asking:
                which = zip(keys.tolist(), epochs.tolist(), scenes, strict=True)
                asked = [questions.question(key, epoch, seed, scene) for key, epoch, scene in which]
                examples |= {"questions": [text for text, _ in asked], "answers": [[answer] for _, answer in asked]}
            yield examples

    return Source("scenes", size, features(config), all_captions, read)


SOURCE = SourceSpec(features, open_scenes, check, settings=("scenes",), needs_root=False, gives_clips=True, drawn=True)
