"""Sampling: images by unmasking visual tokens, autoregressive text, and post-processing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmjax.config import SamplingConfig
from mmjax.sample import masked


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler that a config can name.

    Attributes:
        make: (functions of the model, config of the sampler) -> the pure function sample(params, tokenizer_params,
            text, codes, masked, seeds, guidance, **conditions) -> images; see sample/masked.make_sampler.
        config: dataclass of its fields.
    """

    make: Callable[[Any, Any], Callable[..., Any]]
    config: type[SamplingConfig] = SamplingConfig


SAMPLERS = {"maskgit": SamplerSpec(masked.make_sampler)}
