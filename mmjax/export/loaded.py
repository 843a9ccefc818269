"""The base class of loaded models, and checks of what they are given."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32

from mmjax import models
from mmjax.config import Config, resolve, to_dict
from mmjax.data.text import TextTokenizer
from mmjax.nn.compute import Compute
from mmjax.sample.chunks import per_example
from mmjax.sample.editing import images_of
from mmjax.types import Params, UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model.

    Attributes:
        config: its config.
        params: its parameters, on the device.
        tokenizer: its text tokenizer.
        components: parameters of its components by name, on the device.
    """

    config: Config
    params: Params
    tokenizer: TextTokenizer
    components: Mapping[str, Params] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def compute(self) -> Compute:
        """`config.compute` resolved for the devices here."""
        return models.resolve_compute(self.config.compute, jax.devices()[0].platform)

    @functools.cached_property
    def apply(self) -> Any:
        """The compiled apply(params, **inputs), with the inputs of `models.inputs`."""
        module = models.build(self.config, self.compute)
        return jax.jit(lambda params, **inputs: module.apply({"params": params}, **inputs))

    @functools.cached_property
    def model_fns(self) -> Any:
        """The pure functions of its kind of model."""
        make = models.find(self.config).model_fns
        assert make
        return make(self.config, self.compute)

    def encode_text(self, name: str, texts: list[str]) -> Int32[np.ndarray, "n t"]:
        """Token ids of texts, truncated with a warning that calls them `name`."""
        length = self.config.text.length
        for text in dict.fromkeys(text for text in texts if self.tokenizer.length(text) > length):
            logger.warning("%s %r has more than %d tokens; what goes beyond is cut", name, text[:60], length)
        return self.tokenizer.encode(texts, length)

    @functools.cached_property
    def _programs(self) -> dict[Any, Any]:
        return {}

    def _compiled(self, key: Any, make: Callable[[], Any] | None = None, **rows: int) -> Any:
        """What `make` returns, or the model function of that name, compiled once by per_example."""
        if key not in self._programs:
            self._programs[key] = per_example(make() if make else getattr(self.model_fns, key), **rows)
        return self._programs[key]

    def _changed(self, section: str, changes: dict[str, Any]) -> Config:
        """The config with overrides of a section, checked."""
        tree = to_dict(self.config)
        return resolve(tree | {section: tree[section] | changes})


def some_images(images: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "n *pixels c"]:
    """Images or clips of a shape as models take them, or log-mel features of one channel.

    Raises:
        UserError: for none, or the wrong shape, type or range.
    """
    count = len(images) if hasattr(images, "__len__") else 0
    if not count:
        raise UserError(f"images: must be uint8 or float32 {['n', *shape]}, of at least one")
    if shape[-1] == 3:
        return images_of("images", images, (count, *shape))
    sounds = np.asarray(images)
    if sounds.shape != (count, *shape) or sounds.dtype != np.float32:
        raise UserError(
            f"images: must be float32 {[count, *shape]}, as of mmjax.data.read_sound, not {sounds.dtype} "
            f"{list(sounds.shape)}"
        )
    return sounds


def texts_of(
    name: str, texts: Any, example: str = "a red circle left of a blue square", images: int | None = None
) -> list[str]:
    """Checks and lists texts.

    Raises:
        UserError: for none, anything but texts, or not one for each of a number of images.
    """
    checked = [] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if not checked:
        raise UserError(f'{name}: give a list of at least one text, as in ["{example}"]')
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            raise UserError(f"{name}: each must be a text, and number {i} (from 0) is a {type(text).__name__}")
    if images not in (None, len(checked)):
        raise UserError(f"{name}: must be one for each of the {images} images, not {len(checked)}")
    return checked


def seeds_of(seed: Any, count: int, of: str = "prompts") -> Int32[np.ndarray, "n"]:
    """Returns a seed per example: those given, or consecutive ones from a single one.

    Raises:
        UserError: for anything but one whole number or one per example, each of 31 bits.
    """
    seeds = np.asarray(seed)
    if not np.issubdtype(seeds.dtype, np.integer) or seeds.shape not in ((), (count,)):
        raise UserError(f"seed: must be a whole number, or one for each of the {count} {of}, not {seed!r}")
    if seeds.min() < 0 or seeds.max() > 2**31 - (count if seeds.ndim == 0 else 1):
        raise UserError(f"seed: must be at least 0 and below 2 ** 31, that of the last of the {count} {of} too")
    return (seeds + np.arange(count) if seeds.ndim == 0 else seeds).astype(np.int32)
