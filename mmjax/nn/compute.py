"""Settings of the computation that change results by rounding only: dtypes, kernels, rematerialization, sharding."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mmjax.types import FLOAT32

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _identity(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Partitioner:
    """The sharding of a model's activations; by default unsharded, or as the compiler chooses.

    Attributes:
        with_sharding_constraint: constrains activations [b, t, d] to their sharding.
        shard_map: maps an attention kernel of (q, k, v), each [b, t, h, k], over the devices, each with its own
            examples and heads.
    """

    with_sharding_constraint: Callable[[jax.Array], jax.Array] = _identity
    shard_map: Callable[[Kernel], Kernel] = _identity


UNSHARDED = Partitioner()


@dataclass(frozen=True)
class Compute:
    """How layers are computed.

    Attributes:
        dtype: of activations and matrix products; parameters are float32.
        attention: attention kernel; see nn/attention.
        convolution: implementation of convolutions; see nn/convolution.
        dense: implementation of dense layers, "native" or "flat"; see nn/dense.
        remat: recompute each layer in the backward pass, to save activation memory.
        remat_policy: which values remat saves; see nn/transformer.POLICIES.
        unroll: layers in each iteration of the scan over layers; 0: all.
        partitioner: of the activations.
    """

    dtype: np.dtype = FLOAT32
    attention: str = "xla"
    convolution: str = "native"
    dense: str = "native"
    remat: bool = False
    remat_policy: str = "nothing"
    unroll: int = 1
    partitioner: Partitioner = UNSHARDED


DEFAULT = Compute()
