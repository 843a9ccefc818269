"""Reconstruction quality: PSNR and SSIM."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float

from mmjax.evaluate.rows import Mean, predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Predict, Results, UserError

WINDOW = 11
SIGMA = 1.5
MIN_ERROR = 1e-10  # PSNR of equal images is 100 dB


def reconstruction(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "reconstruction/psnr" (dB) and "reconstruction/ssim".

    Both are means over examples, and over the frames of a clip. Images are scaled to 0 to 1, the model's clipped to
    that.
    """
    mean = Mean()
    names = "reconstruction/psnr", "reconstruction/ssim"
    for name in names:
        mean.add(name, [])
    for batch, outputs in predicted(predict, batches):
        generated, original = outputs["image"], batch["image"]
        if generated.ndim == 4:
            both = np.stack(_quality(generated, original))
        else:  # one at a time: clips are large
            means = [[x.mean() for x in _quality(*pair)] for pair in zip(generated, original, strict=True)]
            both = np.array(means).reshape(-1, 2).T
        for name, values in zip(names, both, strict=True):
            mean.add(name, values)
    yield from mean.metrics()


def _quality(
    generated: Float[np.ndarray, "b y x c"], original: Float[np.ndarray, "b y x c"]
) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b"]]:
    """PSNR and SSIM of images from -1 to 1."""
    generated, original = _unit_range(generated), _unit_range(original)
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


def _unit_range(image: Float[np.ndarray, "b y x c"]) -> Float[np.ndarray, "b y x c"]:
    return np.clip((image.astype(np.float64) + 1) / 2, 0, 1)


def _blur(image: Float[np.ndarray, "b y x c"]) -> Float[np.ndarray, "b y2 x2 c"]:
    """Applies the separable Gaussian window with "VALID" padding."""
    taps = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / SIGMA**2)
    taps /= taps.sum()
    y, x = image.shape[1] - WINDOW + 1, image.shape[2] - WINDOW + 1
    image = sum(tap * image[:, i : i + y] for i, tap in enumerate(taps))
    return sum(tap * image[:, :, i : i + x] for i, tap in enumerate(taps))


EVALUATOR = EvaluatorSpec(
    build=lambda config: reconstruction,
    metrics=lambda config: ("reconstruction/psnr", "reconstruction/ssim"),
    predictions=("image",),
    fields=("image",),
    check=lambda config: check_size(config.data.size),
)
