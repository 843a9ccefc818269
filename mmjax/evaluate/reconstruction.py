"""Quality of what a visual tokenizer or another model gives back: PSNR, SSIM and codebook usage."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.evaluate.rows import averaged
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Evaluator, Predict, Results, UserError

NAMES = ("reconstruction/psnr", "reconstruction/ssim")
WINDOW = 11
SIGMA = 1.5
MIN_ERROR = 1e-10  # PSNR of equal images is 100 dB


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


reconstruction = averaged(_scores, *NAMES)


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
