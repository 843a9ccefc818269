"""LPIPS, a perceptual distance of images (Zhang et al. 2018, arXiv:1801.03924, equation 1; version 0.1).

mmjax does not include the weights; the command CONVERT writes them where the PyPI package `lpips` is installed.
Tensors of the file, in PyTorch's layout:

    features.N.weight [out, in, y, x], features.N.bias [out]    torchvision's vgg16 or alexnet; N counts its layers.
                                                                or net.sliceK.N, their names in lpips
    linK.model.1.weight [1, c, 1, 1]                            the linear layer of stage K, 0 to 4 (or linK.model.0)
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import Array, Float

from mmjax.config import PerceptualConfig
from mmjax.config.schema import require
from mmjax.files import check_regular, read_parameters
from mmjax.types import Params, UserError

CONVERT = (
    "python -c \"import lpips, safetensors.torch as s; s.save_file({k: v for k, v in lpips.LPIPS(net='vgg')"
    ".state_dict().items() if not k.startswith('lins.')}, 'lpips_vgg.safetensors')\""
)
# Convolutions of each stage by number: channels and kernel size. Max-pooling separates stages.
Stages = tuple[dict[str, tuple[int, int]], ...]
VGG16: Stages = (
    {"0": (64, 3), "2": (64, 3)},
    {"5": (128, 3), "7": (128, 3)},
    {"10": (256, 3), "12": (256, 3), "14": (256, 3)},
    {"17": (512, 3), "19": (512, 3), "21": (512, 3)},
    {"24": (512, 3), "26": (512, 3), "28": (512, 3)},
)
ALEXNET: Stages = ({"0": (64, 11)}, {"3": (192, 5)}, {"6": (384, 3)}, {"8": (256, 3)}, {"10": (256, 3)})
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images from -1 to 1
_TINY = 1e-10


@functools.lru_cache(maxsize=1)
def read(weights: PerceptualConfig, size: int) -> Params:
    """Reads weights for images of a size as {"features": {N: {"kernel", "bias"}}, "linear": {K: [c]}}, float32.

    Raises:
        UserError: where the file is missing or another one, or images are too small for its network.
    """
    path = weights.weights
    tensors = _load(path, weights.sha256)
    alexnet = tensors.get("features.0.weight", np.empty(0)).shape[-1:] == (11,)
    name, smallest = ("alexnet", 31) if alexnet else ("vgg16", 16)  # the side whose last feature map is 1 x 1
    require(
        size >= smallest,
        f"perceptual.weights: {name} needs images of at least {smallest} pixels, and data.size is {size}",
    )
    features, linear, channels = {}, {}, 3
    for stage, layers in enumerate(ALEXNET if alexnet else VGG16):
        for number, (width, window) in layers.items():
            kernel = _take(tensors, f"features.{number}.weight", (width, channels, window, window), path)
            bias = _take(tensors, f"features.{number}.bias", (width,), path)
            features[number] = {"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias}
            channels = width
        linear[str(stage)] = _take(tensors, f"lin{stage}.model.1.weight", (1, width, 1, 1), path).reshape(width)
    return {"features": features, "linear": linear}


def features(params: Params, image: Float[Array, "b y x 3"]) -> list[Any]:
    """Activations of the five stages, [b, y', x', c], of images from -1 to 1."""
    alexnet = params["features"]["0"]["kernel"].shape[0] == 11
    x = (image.astype(jnp.float32) - jnp.array(_SHIFT)[None, None, None]) / jnp.array(_SCALE)[None, None, None]
    activations = []
    for stage, layers in enumerate(ALEXNET if alexnet else VGG16):
        if stage in ((1, 2) if alexnet else (1, 2, 3, 4)):
            side = 3 if alexnet else 2
            x = nn.max_pool(x, (side, side), (2, 2))
        for number, (_, window) in layers.items():
            kernel, bias = params["features"][number]["kernel"], params["features"][number]["bias"]
            stride, border = (4, 2) if window == 11 else (1, window // 2)
            padding = ((border, border),) * 2
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = nn.relu(x + bias[None, None, None])
        activations.append(x)
    return activations


def last_features(params: Params, image: Float[Array, "b y x 3"]) -> Float[Array, "b d"]:
    """Features of the last stage, averaged over positions."""
    return jnp.mean(features(params, image)[-1], axis=(1, 2))


def distance(
    params: Params, a: Float[Array, "b *frames y x 3"], b: Float[Array, "b *frames y x 3"]
) -> Float[Array, "b"]:
    """LPIPS distance of images from -1 to 1; of clips the mean over their frames."""
    count = a.shape[0]
    a, b = (x.reshape(-1, *x.shape[-3:]) for x in (a, b))
    total = jnp.zeros(a.shape[0])
    for stage, (x, y) in enumerate(zip(features(params, a), features(params, b), strict=True)):
        difference = jnp.square(_normalize(x) - _normalize(y))
        total += jnp.mean(difference @ params["linear"][str(stage)], axis=(1, 2))
    return jnp.mean(total.reshape(count, -1), axis=1)


def _normalize(x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
    """Scales the features of each position to length 1, with a finite gradient at 0."""
    return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + _TINY**2) + _TINY)


def _load(path: str, sha256: str) -> dict[str, np.ndarray]:
    """The tensors of a file by the names above."""
    try:
        check_regular(Path(path))
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"perceptual.weights: {path} cannot be read ({error.strerror})") from None
    require(sha256.lower() in ("", digest), f"perceptual.sha256: {path} has the SHA-256 {digest}, not {sha256}")
    try:
        tensors = read_parameters(Path(path))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
        raise UserError(
            f"perceptual.weights: {Path(path).name} is not a safetensors file; make one with {CONVERT}"
        ) from None
    renamed = {re.sub(r"^net\.slice\d+\.", "features.", name): value for name, value in tensors.items()}
    return {re.sub(r"^(lin\d)\.model\.0\.", r"\1.model.1.", name): value for name, value in renamed.items()}


def _take(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], path: str) -> np.ndarray:
    """A tensor of this shape as float32."""
    value = tensors.get(name)
    if value is None or value.shape != shape:
        has = "is missing" if value is None else f"is {list(value.shape)}"
        raise UserError(
            f"perceptual.weights: {name} {has} in {Path(path).name}, and should be {list(shape)}; make the file with "
            f"{CONVERT}"
        )
    return value.astype(np.float32)
