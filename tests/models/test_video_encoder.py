"""The video encoder: an image is a clip of one frame, and what it knows of time."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.vision_encoder import VideoEncoder, VisionEncoder
from mmjax.nn.compute import Compute
from mmjax.nn.positions import sincos_1d

CLIP = jax.random.normal(jax.random.key(0), (2, 6, 12, 20, 3))


def made(**fields):
    module = VideoEncoder(patch=4, width=12, layers=2, heads=3, **fields)
    return module, jax.jit(module.init)(jax.random.key(1), CLIP)["params"]


def apply(module, params, x):
    return np.asarray(jax.jit(module.apply)({"params": params}, x))


def test_one_frame_is_an_image():
    """Attention within the only frame is full attention: that of a VisionEncoder with the same parameters."""
    module, params = made(time=1)
    tubelets = params["tubelets"]
    patches = {"kernel": tubelets["kernel"][0], "bias": tubelets["bias"] + sincos_1d(1, 12)[0]}
    image = {"patches": patches, "stack": params["stack"], "norm": params["norm"]}
    found = apply(module, params, CLIP[:, :1])
    np.testing.assert_allclose(found, apply(VisionEncoder(4, 12, 2, 3), image, CLIP[:, 0]), atol=1e-5)
    assert np.abs(found - apply(module, params, CLIP)[:, :15]).max() > 1e-3  # with other frames it is another


def test_tubelets_of_several_frames():
    module, params = made(time=2)
    assert params["tubelets"]["kernel"].shape == (2, 4, 4, 3, 12)
    found = apply(module, params, CLIP)
    assert found.shape == (2, 3 * 3 * 5, 12)
    other = VideoEncoder(4, 2, 12, 2, 3, Compute(convolution="matmul", remat=True, unroll=2))
    np.testing.assert_allclose(apply(other, params, CLIP), found, atol=1e-5)
    assert np.abs(apply(module, params, CLIP[:, ::-1]).mean(1) - found.mean(1)).max() > 1e-3  # time has a direction
    alone = apply(module, params, CLIP.at[0].set(0.0))
    np.testing.assert_allclose(alone[1], found[1], atol=1e-6)


def test_a_place_reaches_every_other_in_one_layer():
    """By its frame, and from there over time; over time alone it reaches nothing but itself."""
    module = VideoEncoder(patch=4, time=2, width=12, layers=1, heads=3)
    params = jax.jit(module.init)(jax.random.key(1), CLIP)["params"]

    def reached(params):
        """How much each tubelet's result depends on the middle of the first frames."""

        def result(change):
            clip = CLIP[:1].at[:, :2, 4:8, 8:12].add(change)
            return module.apply({"params": params}, clip)[0]

        return np.abs(jax.jit(jax.jacfwd(result))(jnp.zeros(()))).max(-1).reshape(3, 3, 5) > 1e-6

    assert reached(params).all()
    block = params["stack"]["block"]
    out = jax.tree.map(jnp.zeros_like, block["self_attention"]["out"])
    blind = {**block, "self_attention": {**block["self_attention"], "out": out}}
    expected = np.zeros((3, 3, 5), bool)
    expected[:, 1, 2] = True
    np.testing.assert_array_equal(reached({**params, "stack": {"block": blind}}), expected)
