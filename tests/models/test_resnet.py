"""The residual network against torchvision's, in metrics that it gave."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.resnet import ResNet, ResNetTrunk
from mmjax.nn.compute import Compute

BLOCKS = (1, 2, 1, 1)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 61, 47, 3)), jnp.float32)


def torchvision_weights():
    """Random numbers for torchvision.models.resnet.ResNet(Bottleneck, [1, 2, 1, 1]), by its names and in its order."""
    found = {}

    def convolution(name, features, channels, window):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        scale = np.sqrt(2 / (channels * window**2))
        found[f"{name}.weight"] = rng.normal(0, scale, (features, channels, window, window))

    def norm(name, features):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        found[f"{name}.weight"] = rng.uniform(0.5, 1.0, features)
        found[f"{name}.bias"] = rng.normal(0, 0.1, features)
        found[f"{name}.running_mean"] = rng.normal(0, 0.1, features)
        found[f"{name}.running_var"] = rng.uniform(0.5, 1.5, features)

    convolution("conv1", 64, 3, 7)
    norm("bn1", 64)
    before = 64
    for stage, count in enumerate(BLOCKS):
        width = 64 * 2**stage
        for i in range(count):
            name = f"layer{stage + 1}.{i}"
            for j, (features, channels, window) in enumerate(
                ((width, before, 1), (width, width, 3), (4 * width, width, 1)), 1
            ):
                convolution(f"{name}.conv{j}", features, channels, window)
                norm(f"{name}.bn{j}", features)
            if i == 0:
                convolution(f"{name}.downsample.0", 4 * width, before, 1)
                norm(f"{name}.downsample.1", 4 * width)
            before = 4 * width
    return found


def ours(weights):
    """The parameters of a ResNetTrunk from those of torchvision."""

    def kernel(name):
        return {"kernel": jnp.asarray(weights[f"{name}.weight"].transpose(2, 3, 1, 0), jnp.float32)}

    def norm(name):
        parts = {"scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
        return {part: jnp.asarray(weights[f"{name}.{theirs}"], jnp.float32) for part, theirs in parts.items()}

    params = {"stem": kernel("conv1"), "stem_norm": norm("bn1")}
    layers = {"reduce": ("conv1", "bn1"), "spatial": ("conv2", "bn2"), "expand": ("conv3", "bn3")}
    for stage, count in enumerate(BLOCKS):
        for i in range(count):
            theirs, block = f"layer{stage + 1}.{i}", {}
            shortcut = {"shortcut": ("downsample.0", "downsample.1")} if i == 0 else {}
            for name, (convolution, normalization) in (layers | shortcut).items():
                block[name] = kernel(f"{theirs}.{convolution}")
                block[f"{name}_norm"] = norm(f"{theirs}.{normalization}")
            params[f"stage_{stage}_{i}"] = block
    return params


# What torchvision 0.28.0 gave for these weights and X in double precision: of the second image's features after
# layer4 every 301st channel at the place (1, 0), and the mean of all; evaluated and in training, and from there the
# running mean and variance of every 15th channel of two normalizations after this one batch.
EVALUATED = [0.0, 0.0077128, 1.989321, 0.0, 1.6354489, 0.0, 0.7327101], 0.6610683594
TRAINED = [0.0, 0.0539139, 0.0, 0.845242, 1.149128, 0.0, 0.0], 0.4341231826
STEM = (
    [0.1461935, 0.0511734, 0.0035843, -0.0180149, 0.1468442],
    [1.0391235, 0.8752622, 1.4594287, 1.5380863, 1.362159],
)
SPATIAL = (
    [-0.1396253, 0.1098565, -0.1244465, -0.159025, 0.1691052, 0.0989968, 0.2605134, 0.0472086, -0.0313049],
    [1.1887896, 1.3772055, 0.9116354, 1.281073, 0.8664955, 0.8820391, 0.5719326, 0.9598458, 0.5606748],
)


def assert_features(found, expected):
    assert found.shape == (2, 2, 2, 2048)
    np.testing.assert_allclose(found[1, 1, 0, ::301], expected[0], atol=1e-4)
    np.testing.assert_allclose(jnp.mean(found), expected[1], rtol=1e-5)


@pytest.fixture(name="params", scope="module")
def params_from_torchvision():
    return ours(torchvision_weights())


@pytest.mark.parametrize("implementation", ["native", "matmul"])
def test_evaluated_it_equals_torchvisions(params, implementation):
    module = ResNetTrunk(BLOCKS, compute=Compute(convolution=implementation))
    assert_features(jax.jit(module.apply)({"params": params}, X), EVALUATED)


def test_in_training_it_equals_torchvisions(params):
    module = ResNetTrunk(BLOCKS)
    train = jax.jit(lambda params, x: module.apply({"params": params}, x, None, True, mutable=["batch_stats"]))
    found, put = train(params, X)
    assert_features(found, TRAINED)
    normalizations = (
        (params["stem_norm"], put["batch_stats"]["stem_norm"], STEM, 2 * 31 * 24),
        (params["stage_1_0"]["spatial_norm"], put["batch_stats"]["stage_1_0"]["spatial_norm"], SPATIAL, 2 * 8 * 6),
    )
    for old, new, expected, number in normalizations:
        mean, variance = (
            0.9 * old[name] + 0.1 * new[name] * scale
            for name, scale in (("mean", 1.0), ("variance", number / (number - 1)))
        )  # torch
        np.testing.assert_allclose(mean[::15], expected[0], atol=1e-5)
        np.testing.assert_allclose(variance[::15], expected[1], rtol=1e-5)


def test_by_default_it_is_a_resnet_50():
    shapes = jax.eval_shape(ResNetTrunk().init, jax.random.key(0), X)["params"]
    learned = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if path[-1].key not in ("mean", "variance")
    )
    assert learned == 25_557_032 - 2049 * 1000  # torchvision's resnet50 but for its classifier


def test_features_of_places():
    """One a place of the map; and what each block learns begins at nothing."""
    module = ResNet(24, (1, 1), channels=8)
    params = jax.jit(module.init)(jax.random.key(0), X)["params"]
    features = jax.jit(lambda x, *seen: module.apply({"params": params}, x, *seen, mutable=["batch_stats"])[0])
    found = features(X)
    assert found.shape == (2, 8 * 6, 24)
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(-1), 1, rtol=1e-3)
    block = {
        **params["trunk"]["stage_1_0"],
        "spatial": jax.tree.map(lambda x: x + 1.0, params["trunk"]["stage_1_0"]["spatial"]),
    }
    other = {**params, "trunk": {**params["trunk"], "stage_1_0": block}}
    np.testing.assert_array_equal(jax.jit(module.apply)({"params": other}, X), found)
