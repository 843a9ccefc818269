"""How close generated images are to the originals: PSNR, SSIM and feature distance; codebook usage.

The feature distance is the Fréchet distance between the features of generated and original images. By default these are
those of a small convolutional network with fixed random weights. They respond to blur, noise, wrong colors and missing
texture, but not to content: the metric compares only with itself, never with an FID. With `perceptual.weights` they are
the last features of that network.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.config import Config
from mmjax.evaluate.rows import averaged, predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.models import lpips
from mmjax.types import Batch, Evaluator, Predict, Results, UserError

NAMES = ("reconstruction/psnr", "reconstruction/ssim")
WINDOW = 11
SIGMA = 1.5
MIN_ERROR = 1e-10  # PSNR of equal images is 100 dB
Features = Callable[[Any, Any], Any]  # features(params, images [b, y, x, c]) -> [b, d]
WIDTHS = (16, 32, 64)


def _scores(batch: Batch, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """PSNR and SSIM of each image, with a clip's mean over its frames.

    Images are scaled to 0 to 1, the model's clipped to that.
    """
    generated, original = outputs["image"], batch["image"]
    if generated.ndim == 4:
        both = np.stack(_quality(generated, original))
    else:  # one at a time: clips are large
        means = [[x.mean() for x in _quality(*pair)] for pair in zip(generated, original, strict=True)]
        both = np.array(means).reshape(-1, 2).T
    return dict(zip(NAMES, both, strict=True))


reconstruction = averaged(_scores)


def codes(count: int) -> Evaluator:
    """An evaluator that yields "tokenizer/code_usage": the fraction of `count` codes that occur in the set."""

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        used = np.zeros(count, np.bool_)
        for batch in batches():
            used[predict(batch)["codes"][batch["mask"]]] = True
        yield "tokenizer/code_usage", float(used.mean())

    return evaluate


def _quality(
    generated: Float[np.ndarray, "b y x c"], original: Float[np.ndarray, "b y x c"]
) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b"]]:
    """PSNR and SSIM of images from -1 to 1."""
    generated, original = (np.clip((image.astype(np.float64) + 1) / 2, 0, 1) for image in (generated, original))
    return psnr(((generated - original) ** 2).mean(axis=(1, 2, 3))), ssim(generated, original)


def psnr(mean_squared_error: Float[np.ndarray, "b"]) -> Float[np.ndarray, "b"]:
    """Peak signal-to-noise ratio in dB for images from 0 to 1, at most 100 dB."""
    return -10 * np.log10(np.maximum(mean_squared_error, MIN_ERROR))


def ssim(a: Float[np.ndarray, "b y x c"], b: Float[np.ndarray, "b y x c"]) -> Float[np.ndarray, "b"]:
    """Structural similarity (SSIM) of images from 0 to 1, averaged over positions and channels.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity"
    (2004), equation 13, with the paper's Gaussian window of 11 x 11 and standard deviation 1.5, K1 = 0.01 and K2 =
    0.03, at positions where the window lies within the image.

    Raises:
        UserError: for images smaller than the window.
    """
    check_size(min(a.shape[1:3]))
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return similarity.mean(axis=(1, 2, 3))


def check_size(side: int) -> None:
    """Raises UserError if images are smaller than SSIM's window."""
    if side < WINDOW:
        raise UserError(
            f"evaluate.evaluators: reconstruction needs images of at least {WINDOW} pixels (the window of SSIM), and "
            f"they have {side}; take a larger data.size, or leave reconstruction out"
        )


def _blur(image: Float[np.ndarray, "b y x c"]) -> Float[np.ndarray, "b y2 x2 c"]:
    """Applies the separable Gaussian window with "VALID" padding."""
    taps = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / SIGMA**2)
    taps /= taps.sum()
    y, x = image.shape[1] - WINDOW + 1, image.shape[2] - WINDOW + 1
    image = sum(tap * image[:, i : i + y] for i, tap in enumerate(taps))
    return sum(tap * image[:, :, i : i + x] for i, tap in enumerate(taps))


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
        if len(found[0]) >= 2:  # a covariance needs two
            yield "reconstruction/feature_distance", frechet_distance(*map(np.stack, found))

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


def _build_feature_distance(config: Config) -> Evaluator:
    if config.perceptual.weights:
        return feature_distance(lpips.last_features, lpips.read(config.perceptual, config.data.size))
    return feature_distance(random_features, random_kernels())


CODES = EvaluatorSpec(
    build=lambda config: codes(math.prod(getattr(config.model, "levels", ()))),
    metrics=lambda config: ("tokenizer/code_usage",),
    predictions=("codes",),
    fields=("image",),
)
RECONSTRUCTION = EvaluatorSpec(
    build=lambda config: reconstruction,
    metrics=lambda config: NAMES,
    predictions=("image",),
    fields=("image",),
    check=lambda config: check_size(config.data.size),
)
FEATURE_DISTANCE = EvaluatorSpec(
    build=_build_feature_distance,
    metrics=lambda config: ("reconstruction/feature_distance",),
    predictions=("image",),
    fields=("image",),
)
