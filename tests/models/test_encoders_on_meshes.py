"""Encoders, fusions and pooling on eight devices: the same features, gradients and statistics as on one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import MeshConfig
from mmjax.models import fusion, resnet, vision_encoder
from mmjax.models.rules import POOLING, joined
from mmjax.nn.compute import UNSHARDED, Compute, Partitioner
from mmjax.nn.transformer import AttentionPooling
from mmjax.parallel import Placement, make_mesh, match_rules
from mmjax.types import leaf_name

RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.normal(size=(16, 32, 32, 3)).astype(np.float32),
    "clip": RNG.normal(size=(16, 4, 16, 16, 3)).astype(np.float32),
    "hidden": RNG.random((16, 16)) < 0.5,
    "mask": np.arange(16) % 5 != 3,
}
RULES = joined(
    vision_encoder.rules(registers=3, masking=True),
    vision_encoder.VIDEO_RULES,
    resnet.RULES,
    *fusion.RULES.values(),
    POOLING,
)


class Everything(nn.Module):
    partitioner: Partitioner = UNSHARDED

    @nn.compact
    def __call__(self, image, clip, hidden, mask):
        """The images' patches learn of the clip and of the places in four ways, which are added up and pooled."""
        compute = Compute(partitioner=self.partitioner)
        layers = {"layers": 1, "heads": 8, "compute": compute}
        vision = vision_encoder.VisionEncoder(8, 32, **layers, registers=3, masking=True, name="vision")
        video = vision_encoder.VideoEncoder(8, 2, 32, **layers, name="video")
        places = resnet.ResNet(32, (1, 1), 8, compute=compute, name="places")
        x, seen = vision(image, hidden), video(clip)
        seen = jnp.concatenate([seen, places(image, mask, True)], axis=1)
        shown = jnp.arange(seen.shape[1])[None, None, None] < jnp.sum(hidden, axis=1)[:, None, None, None]
        fused = [fusion.Fusion(kind, **layers, name=kind)(x, seen, shown) for kind in fusion.RULES]
        return AttentionPooling(8, compute, name="pool")(sum(fused))


@functools.cache
def beginning():
    module = Everything()
    params = jax.jit(module.init)(jax.random.key(0), **BATCH)["params"]
    # Scales that begin at 0 would hide what is below them.
    return jax.tree.map(lambda x: np.asarray(x) if x.any() else np.full_like(x, 0.1), params)


def computed(mesh, devices):
    """The loss, and its gradients with the statistics of the batch."""
    placement = Placement(make_mesh(mesh, jax.devices()[:devices]))
    params = beginning()
    shardings = match_rules(params, RULES, placement.mesh)
    module = Everything(Partitioner(placement.with_sharding_constraint, placement.shard_map))

    def total(params, batch):
        y, put = module.apply({"params": params}, **batch, mutable=["batch_stats"])
        each = jnp.where(batch["mask"], jnp.sum(jnp.sin(y), axis=1), 0.0)
        return jnp.sum(each) / 13.0, put["batch_stats"]

    compiled = jax.jit(
        jax.value_and_grad(total, has_aux=True),
        in_shardings=(shardings, placement.batch),
        out_shardings=placement.replicated,
    )
    (loss, statistics), grads = compiled(jax.device_put(params, shardings), placement.shard_batch(BATCH))
    return jax.device_get((loss, statistics)), jax.device_get(grads)


@functools.cache
def alone():
    return computed(MeshConfig(1, 1, 1), 1)


# The first splits everything in every way; the others, each in one way alone, take as long again.
MESHES = {
    "all": MeshConfig(2, 2, 2),
    "data": MeshConfig(8, 1, 1),
    "fsdp": MeshConfig(1, 8, 1),
    "model": MeshConfig(1, 1, 8),
}


@pytest.mark.parametrize("axes", ["all", *(pytest.param(axis, marks=pytest.mark.slow) for axis in list(MESHES)[1:])])
def test_eight_devices_equal_one(axes):
    (found, gradients), (expected, their_gradients) = computed(MESHES[axes], 8), alone()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)

    def near(path, a, b):
        # What is added to all keys alike changes no attention: its gradient is nothing but rounding errors.
        atol = 1e-6 if leaf_name(path).endswith("k/bias") else 1e-5 * max(np.abs(b).max(), 1e-2)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=leaf_name(path))

    jax.tree_util.tree_map_with_path(near, gradients, their_gradients)
