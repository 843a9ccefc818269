"""Settings of the computation that change results by rounding only: dtypes, kernels, rematerialization."""

from dataclasses import dataclass

import numpy as np

from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.types import FLOAT32


@dataclass(frozen=True)
class Compute:
    """How layers are computed.

    Attributes:
        dtype: of activations and matrix products; parameters are float32.
        attention: attention kernel; see nn/attention.
        convolution: implementation of convolutions; see nn/convolution.
        remat: recompute each layer in the backward pass, to save activation memory.
        remat_policy: which values remat saves; see nn/transformer.POLICIES.
        unroll: layers in each iteration of the scan over layers; 0: all.
        partitioner: of the activations.
    """

    dtype: np.dtype = FLOAT32
    attention: str = "xla"
    convolution: str = "native"
    remat: bool = False
    remat_policy: str = "nothing"
    unroll: int = 1
    partitioner: Partitioner = UNSHARDED


DEFAULT = Compute()
