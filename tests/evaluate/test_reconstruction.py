import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mmjax.evaluate.reconstruction import psnr, reconstruction, ssim
from mmjax.types import UserError


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    return structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=-1
    )


@pytest.mark.parametrize("shape", [(3, 11, 11, 1), (2, 13, 31, 3), (2, 37, 17, 3)])
def test_ssim_equals_scikit_image(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    a = rng.uniform(0, 1, shape).cumsum(axis=1) % 1  # some structure, not noise alone
    b = np.clip(a + rng.normal(0, 0.2, shape), 0, 1)
    np.testing.assert_allclose(ssim(a, b), [reference_ssim(x, y) for x, y in zip(a, b, strict=True)], rtol=1e-9)
    np.testing.assert_allclose(ssim(a, a), 1, rtol=1e-12)


def test_metrics_equal_scikit_image(evaluation_set) -> None:
    data = evaluation_set(7)
    metrics = dict(reconstruction(data.predict, data.batches))
    original = (data.original.astype(np.float64) + 1) / 2
    drawn = np.clip((data.drawn.astype(np.float64) + 1) / 2, 0, 1)
    pairs = list(zip(original, drawn, strict=True))
    assert metrics == pytest.approx(
        {
            "reconstruction/psnr": np.mean([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs]),
            "reconstruction/ssim": np.mean([reference_ssim(a, b) for a, b in pairs]),
        },
        rel=1e-6,
    )


def test_psnr_of_equal_images() -> None:
    np.testing.assert_allclose(psnr(np.array([0.0, 0.01])), [100, 20])


def test_nonfinite_images_give_nan(evaluation_set) -> None:
    data = evaluation_set(3)
    data.drawn[1] = np.nan
    assert all(map(math.isnan, dict(reconstruction(data.predict, data.batches)).values()))


def test_too_small_images(evaluation_set) -> None:
    data = evaluation_set(3, side=7)
    with pytest.raises(UserError, match=r"at least 11 pixels .* they have 7; take a larger data\.size"):
        dict(reconstruction(data.predict, data.batches))


def test_clips_are_averaged_over_frames(evaluation_set) -> None:
    data = evaluation_set(7, frames=(3,))
    metrics = dict(reconstruction(data.predict, data.batches))
    original = (data.original.astype(np.float64) + 1) / 2
    drawn = np.clip((data.drawn.astype(np.float64) + 1) / 2, 0, 1)
    pairs = list(zip(original.reshape(-1, 13, 17, 3), drawn.reshape(-1, 13, 17, 3), strict=True))
    psnr_by_skimage = np.mean([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs])
    assert metrics["reconstruction/psnr"] == pytest.approx(psnr_by_skimage, rel=1e-6)
    assert metrics["reconstruction/ssim"] == pytest.approx(np.mean([reference_ssim(a, b) for a, b in pairs]), rel=1e-6)


def test_no_valid_clips_gives_no_metric(evaluation_set) -> None:
    data = evaluation_set(0, frames=(3,))
    assert not list(reconstruction(data.predict, data.batches))
    batch = next(evaluation_set(3, frames=(3,)).batches()) | {"mask": np.zeros(5, bool)}
    one = evaluation_set(3, frames=(3,))
    assert not list(reconstruction(one.predict, lambda: [batch]))
