"""Decoding: images by filling in visual tokens, texts token after token; what is done to images afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmjax.config import SamplingConfig
from mmjax.sample import masked


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler that a config may name.

    Attributes:
        make: (functions of the model, config of the sampler) -> the pure function sample(params, tokenizer_params,
            text, codes, masked, seeds, guidance, **given) -> images; see sample/masked.make_sampler.
        config: class of its fields.
    """

    make: Callable[[Any, Any], Callable[..., Any]]
    config: type[SamplingConfig] = SamplingConfig


SAMPLERS = {"maskgit": SamplerSpec(lambda model_fns, config: masked.make_sampler(model_fns, masked.decoding(config)))}
