"""The Fréchet distance of features: closed forms, SciPy's matrix root, and sensitivity to distortions."""

import time

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from mmjax.evaluate.reconstruction import feature_distance, frechet_distance, random_features, random_kernels


def test_distance_of_one_dimensional_gaussians():
    """|mean - mean|^2 + (deviation - deviation)^2 in one dimension."""
    a = np.array([[-1.0], [1.0], [3.0]])
    assert frechet_distance(a, 3 * a + 5) == pytest.approx((1 - 8) ** 2 + (2 - 6) ** 2)


def test_distance_equals_scipy_sqrtm():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(31, 7))
    b = rng.normal(size=(29, 7)) @ rng.normal(size=(7, 7)) + 0.3
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a[:3], a[:3]) == pytest.approx(0, abs=1e-8)  # fewer examples than features


def measured(evaluation):
    evaluate = feature_distance(random_features, random_kernels())
    metrics = dict(evaluate(evaluation.predict, evaluation.batches))
    assert list(metrics) == ["reconstruction/feature_distance"]
    return metrics["reconstruction/feature_distance"]


def test_distance_grows_with_noise_and_blur(evaluation_set):
    evaluation = evaluation_set(23, side=16)
    noise = evaluation.drawn - evaluation.original
    values = []
    for amount in (0, 0.3, 1):
        evaluation.drawn = evaluation.original + np.float32(amount) * noise
        values.append(measured(evaluation))
    assert values[0] == pytest.approx(0, abs=1e-6) and values[0] < values[1] < values[2]
    blurred = []
    for deviation in (0.4, 0.8, 1.6):
        evaluation.drawn = gaussian_filter(evaluation.original, (0, deviation, deviation, 0))
        blurred.append(measured(evaluation))
    assert values[0] < blurred[0] < blurred[1] < blurred[2]


def test_padding_is_ignored_and_one_image_gives_no_metric(evaluation_set):
    evaluation = evaluation_set(7)
    images = (jnp.asarray(image) for image in (evaluation.drawn.clip(-1, 1), evaluation.original))
    expected = frechet_distance(*(np.asarray(random_features(random_kernels(), x), np.float64) for x in images))
    assert measured(evaluation) == pytest.approx(expected, rel=1e-3)
    one = evaluation_set(1)
    assert not list(feature_distance(random_features, random_kernels())(one.predict, one.batches))


def test_frames_of_clips_are_images(evaluation_set):
    images, clips = evaluation_set(6), evaluation_set(3)
    for name in ("original", "drawn"):
        whole = getattr(images, name)
        setattr(clips, name, whole.reshape(3, 2, *whole.shape[1:]))
    clips.predict = lambda batch: {"image": clips.drawn[[int(name) for name in batch["id"]]]}
    assert measured(clips) == pytest.approx(measured(images), rel=1e-4)


def test_random_features_are_fast(evaluation_set):
    """512 images of 64 pixels in seconds."""
    evaluation = evaluation_set(512, side=64)
    batches = [
        {"image": evaluation.original[i : i + 64], "mask": np.ones(64, bool), "id": list(range(i, i + 64))}
        for i in range(0, 512, 64)
    ]
    evaluation.batches, evaluation.predict = lambda: batches, lambda batch: {"image": evaluation.drawn[batch["id"]]}
    begin = time.process_time()
    measured(evaluation)
    assert time.process_time() - begin < 20
