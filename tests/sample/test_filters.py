import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mmjax.sample.filters import denoise, sharpen
from mmjax.types import UserError


def smooth(count: int = 3, height: int = 29, width: int = 31) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (count, height, width, 3))
    return np.clip(4 * (gaussian_filter(noise, (0, 2, 2, 0)) - 127) + 127, 0, 255).astype(np.uint8)


def test_sharpen_equals_unsharp_masking() -> None:
    images = smooth()
    blurred = gaussian_filter(images.astype(float), (0, 2, 2, 0), mode="nearest")
    expected = np.clip(images + 1.5 * (images - blurred), 0, 255)
    sharp = sharpen(images, 1.5)
    assert sharp.dtype == np.uint8 and np.abs(sharp - expected).mean() < 1 < np.abs(sharp.astype(float) - images).mean()


def test_denoise_reduces_noise() -> None:
    steps = np.kron(np.array([[40, 200], [120, 90]]), np.ones((16, 16)))[None, ..., None].repeat(3, -1)
    noisy = np.clip(steps + np.random.default_rng(0).normal(0, 12, steps.shape), 0, 255).astype(np.uint8)
    clean = denoise(noisy, 12.0)
    errors = [np.sqrt(np.mean((image - steps) ** 2)) for image in (noisy, clean)]
    assert errors[0] > 11 and errors[1] < 4
    assert np.abs(clean[0, 5:11, 20:27].astype(float) - 200).max() < 12  # edges stay where they are


@pytest.mark.parametrize("apply", [lambda x: sharpen(x, 2.0), lambda x: denoise(x, 20.0)], ids=["sharpen", "denoise"])
def test_clips_are_filtered_by_frame(apply) -> None:
    frames = smooth(6, 13, 17)
    clips = frames.reshape(2, 3, 13, 17, 3)
    np.testing.assert_array_equal(apply(clips), apply(frames).reshape(clips.shape))
    assert (apply(frames) != frames).any()


def test_zero_strength_changes_nothing() -> None:
    images = smooth()
    np.testing.assert_array_equal(sharpen(images, 0.0), images)
    np.testing.assert_array_equal(denoise(images, 0.0), images)
    assert sharpen(images[:0], 1.0).shape == denoise(images[:0], 1.0).shape == (0, 29, 31, 3)


@pytest.mark.parametrize(("call", "line"), [
    (lambda x: sharpen(x, -1.0), "sharpen: amount must be from 0 to 5, not -1"),
    (lambda x: sharpen(x, float("nan")), "sharpen: amount must be from 0 to 5, not nan"),
    (lambda x: sharpen(x, 5.5), "sharpen: amount must be from 0 to 5, not 5.5"),
    (lambda x: denoise(x, -2.0), "denoise: strength must be from 0 to 100, not -2"),
    (lambda x: denoise(x, float("inf")), "denoise: strength must be from 0 to 100, not inf"),
])  # fmt: skip
def test_out_of_range_values(call, line: str) -> None:
    with pytest.raises(UserError) as told:
        call(smooth())
    assert str(told.value) == line


def test_missing_scikit_image() -> None:
    program = """
import sys
sys.modules["skimage"] = None  # importing it raises ImportError
import numpy as np
from mmjax.sample.filters import denoise, sharpen
try:
    denoise(sharpen(np.zeros((1, 5, 7, 3), np.uint8), 1.0), 1.0)
except Exception as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert done.stdout == "denoise: scikit-image is not installed; run pip install '.[denoise]'\n", done.stderr
