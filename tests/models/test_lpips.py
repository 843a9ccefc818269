"""LPIPS against the authors' steps in NumPy, and files that are not it."""

import hashlib

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import save_file

from mmjax.config import PerceptualConfig
from mmjax.models import lpips
from mmjax.types import UserError

# torchvision's layers in order: a convolution (number, in, out, window, stride, padding), "tap" after its ReLU, or a
# max-pool (window, stride).
ALEXNET = [(0, 3, 64, 11, 4, 2), "tap", (3, 2), (3, 64, 192, 5, 1, 2), "tap", (3, 2), (6, 192, 384, 3, 1, 1), "tap",
           (8, 384, 256, 3, 1, 1), "tap", (10, 256, 256, 3, 1, 1), "tap"]  # fmt: skip
VGG16 = [(0, 3, 64), (2, 64, 64), "tap", (2, 2), (5, 64, 128), (7, 128, 128), "tap", (2, 2), (10, 128, 256),
         (12, 256, 256), (14, 256, 256), "tap", (2, 2), (17, 256, 512), (19, 512, 512), (21, 512, 512), "tap", (2, 2),
         (24, 512, 512), (26, 512, 512), (28, 512, 512), "tap"]  # fmt: skip
NETWORKS = {
    "alexnet": ALEXNET,
    "vgg16": [(*layer, 3, 1, 1) if len(layer) == 3 and layer != "tap" else layer for layer in VGG16],
}


def random_tensors(network, lpips_names):
    rng, tensors, stage = np.random.default_rng(0), {}, 0
    for layer in NETWORKS[network]:
        if layer == "tap":
            tensors[f"lin{stage}.model.{1 if lpips_names else 0}.weight"] = rng.uniform(0, 1, (1, width, 1, 1))
            stage += 1
        elif len(layer) == 6:
            number, channels, width, window, _, _ = layer
            stem = f"net.slice{stage + 1}" if lpips_names else "features"
            scale = np.sqrt(2 / (channels * window**2))
            tensors[f"{stem}.{number}.weight"] = rng.normal(0, scale, (width, channels, window, window))
            tensors[f"{stem}.{number}.bias"] = rng.normal(0, 0.1, width)
    if lpips_names:
        tensors["scaling_layer.shift"] = np.zeros((1, 3, 1, 1))  # in their files as well, and always the same
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def reference_features(image, tensors, network):
    """The activations [c, y, x] of one image [3, y, x] at each tap, in double precision."""
    x = (image - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
    find = lambda end: next(v for k, v in tensors.items() if k.endswith(end)).astype(np.float64)  # noqa: E731
    taps = []
    for layer in NETWORKS[network]:
        if layer == "tap":
            taps.append(x)
        elif len(layer) == 2:
            window, stride = layer
            x = sliding_window_view(x, (window, window), (1, 2))[:, ::stride, ::stride].max(axis=(3, 4))
        else:
            number, _, _, window, stride, border = layer
            padded = np.pad(x, ((0, 0), (border, border), (border, border)))
            windows = sliding_window_view(padded, (window, window), (1, 2))[:, ::stride, ::stride]
            x = np.tensordot(find(f".{number}.weight"), windows, ([1, 2, 3], [0, 3, 4]))
            x = np.maximum(x + find(f".{number}.bias")[:, None, None], 0)
    return taps


def reference_distance(a, b, tensors, network):
    total, taps = 0.0, [reference_features(x.transpose(2, 0, 1).astype(np.float64), tensors, network) for x in (a, b)]
    linear = [value for name, value in tensors.items() if name.startswith("lin")]
    for stage, pair in enumerate(zip(*taps, strict=True)):
        one, two = (x / (np.sqrt((x**2).sum(axis=0, keepdims=True)) + 1e-10) for x in pair)
        total += ((one - two) ** 2 * linear[stage][0].astype(np.float64)).sum(axis=0).mean()
    return total


def images(count, size, seed):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def test_alexnet_equals_the_authors_steps(tmp_path):
    tensors = random_tensors("alexnet", lpips_names=True)
    save_file(tensors, tmp_path / "alex.safetensors")
    params = lpips.read(PerceptualConfig(str(tmp_path / "alex.safetensors")), 37)
    a, b = images(2, 37, 1), images(2, 37, 2)
    expected = [reference_distance(*pair, tensors, "alexnet") for pair in zip(a, b, strict=True)]
    distance = jax.jit(lpips.distance)
    np.testing.assert_allclose(distance(params, a, b), expected, rtol=1e-4)
    clips = distance(params, a[None], b[None])
    np.testing.assert_allclose(clips, [np.mean(expected)], rtol=1e-4)
    np.testing.assert_allclose(distance(params, a, a), 0, atol=1e-7)
    assert jax.eval_shape(lpips.last_features, params, a).shape == (2, 256)
    with pytest.raises(UserError, match=r"alexnet needs images of at least 31 pixels, and data.size is 30"):
        lpips.read(PerceptualConfig(str(tmp_path / "alex.safetensors")), 30)


def test_vgg16_equals_the_authors_steps(tmp_path):
    tensors = random_tensors("vgg16", lpips_names=False)
    path = tmp_path / "vgg.safetensors"
    save_file(tensors, path)
    params = lpips.read(PerceptualConfig(str(path), hashlib.sha256(path.read_bytes()).hexdigest().upper()), 17)
    a, b = images(1, 17, 1), images(1, 17, 2)
    expected = reference_distance(a[0], b[0], tensors, "vgg16")
    slope = jax.jit(jax.value_and_grad(lambda a, b, params: lpips.distance(params, a, b)[0]))
    assert float(slope(a, b, params)[0]) == pytest.approx(expected, rel=1e-4)
    dead = jax.tree.map(lambda x: x, params)
    dead["features"]["28"]["bias"] = np.full(512, -100, np.float32)  # no feature of the last stage is above 0
    gradient = slope(a, b, dead)[1]
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    with pytest.raises(UserError, match=r"perceptual.sha256: .*vgg.safetensors has the SHA-256 [0-9a-f]{64}, not 00"):
        lpips.read(PerceptualConfig(str(path), "00"), 17)


def test_files_that_are_no_weights_are_told_in_one_line(tmp_path):
    def told(path):
        with pytest.raises(UserError) as error:
            lpips.read(PerceptualConfig(str(path)), 64)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert told(tmp_path / "absent").endswith("absent cannot be read (No such file or directory)")
    (tmp_path / "vgg.pth").write_bytes(b"PK\x03\x04 of PyTorch")
    assert "vgg.pth is not a safetensors file; make one with python -c" in told(tmp_path / "vgg.pth")
    tensors = random_tensors("alexnet", lpips_names=False)
    del tensors["features.8.bias"]
    save_file(tensors, tmp_path / "part.safetensors")
    assert "features.8.bias is missing in part.safetensors, and should be [256]" in told(tmp_path / "part.safetensors")
    save_file({"features.0.weight": np.zeros((64, 1, 3, 3), np.float32)}, tmp_path / "grey.safetensors")
    assert "features.0.weight is [64, 1, 3, 3] in grey" in told(tmp_path / "grey.safetensors")
