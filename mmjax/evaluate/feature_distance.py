"""Fréchet distance between the features of generated and original images.

By default the features are those of a small convolutional network with fixed random weights. They respond to blur,
noise, wrong colors and missing texture, but not to content: the metric compares only with itself, never with an FID.
With `perceptual.weights` they are the last features of that network.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import Config
from mmjax.evaluate.rows import predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.models import lpips
from mmjax.types import Batch, Evaluator, Predict, Results

Features = Callable[[Any, Any], Any]  # features(params, images [b, y, x, c]) -> [b, d]
WIDTHS = (16, 32, 64)


def feature_distance(features: Features, params: Any) -> Evaluator:
    """An evaluator that yields "reconstruction/feature_distance"; each frame of a clip is an image.

    Args:
        features: (params, images from -1 to 1) -> one vector for each image.
    """
    compiled = jax.jit(features)

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        found: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        for batch, outputs in predicted(predict, batches):
            for kept, image in zip(found, (outputs["image"], batch["image"]), strict=True):
                if len(image):
                    images = np.clip(image, -1, 1).astype(np.float32).reshape(-1, *image.shape[-3:])
                    kept.extend(np.asarray(compiled(params, images), np.float64))
        enough = len(found[0]) >= 2  # a covariance needs two
        yield "reconstruction/feature_distance", frechet_distance(*map(np.stack, found)) if enough else float("nan")

    return evaluate


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, arXiv:1706.08500,
    equation 6). The trace is computed as that of (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    """
    covariance_a, covariance_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariance_b @ root)
    cross = np.sqrt(np.maximum(inner, 0)).sum()
    mean = a.mean(axis=0) - b.mean(axis=0)
    return float(max(mean @ mean + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross, 0.0))


def random_kernels() -> list[Float[np.ndarray, "4 4 c d"]]:
    """The fixed weights of random_features, with He initialization (He et al. 2015)."""
    rng, channels = np.random.default_rng(0), (3, *WIDTHS)
    shapes = [(4, 4, *pair) for pair in zip(channels, WIDTHS, strict=False)]
    return [rng.normal(0, np.sqrt(2 / (16 * shape[2])), shape).astype(np.float32) for shape in shapes]


def random_features(kernels: Sequence[Any], image: Float[Array, "b y x c"]) -> Float[Array, "b d"]:
    """Strided convolutions with ReLU; each layer's features are averaged over positions."""
    x, found = image.astype(jnp.float32), []
    for kernel in kernels:
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x)
        found.append(jnp.mean(x, axis=(1, 2)))
    return jnp.concatenate(found, axis=-1)


def _build(config: Config) -> Evaluator:
    if config.perceptual.weights:
        return feature_distance(lpips.last_features, lpips.read(config.perceptual, config.data.size))
    return feature_distance(random_features, random_kernels())


EVALUATOR = EvaluatorSpec(
    build=_build,
    metrics=lambda config: ("reconstruction/feature_distance",),
    predictions=("image",),
    fields=("image",),
)
