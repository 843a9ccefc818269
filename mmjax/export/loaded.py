"""The base class of loaded models."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from mmjax import models
from mmjax.config import Config
from mmjax.data.text import Tokenizer
from mmjax.nn.compute import Compute
from mmjax.types import Params

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
    tokenizer: Tokenizer
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
