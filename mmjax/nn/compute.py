"""How layers are computed, which changes no result beyond rounding: types, kernels, what is recomputed."""

from dataclasses import dataclass

import numpy as np

from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.types import FLOAT32


@dataclass(frozen=True)
class Compute:
    """How layers are computed.

    Attributes:
        dtype: of activations and matrix products; parameters are float32.
        attention: kernel of scaled dot-product attention; see nn/attention.
        convolution: implementation of convolutions; see nn/convolution.
        remat: recompute each layer in the backward pass, to save the memory of its activations.
        remat_policy: what is kept of each layer nevertheless; see nn/transformer.POLICIES.
        unroll: layers in each iteration of the scan over layers; 0: all of them.
        partitioner: of the activations over the devices.
    """

    dtype: np.dtype = FLOAT32
    attention: str = "xla"
    convolution: str = "native"
    remat: bool = False
    remat_policy: str = "nothing"
    unroll: int = 1
    partitioner: Partitioner = UNSHARDED


DEFAULT = Compute()
