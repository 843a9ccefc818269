"""The patch discriminator: of images and of clips, and each example judged alone."""

import jax
import numpy as np
import pytest

from mmjax.config import MeshConfig, resolve
from mmjax.models import discriminator
from mmjax.parallel import make_mesh, match_rules


def config_dict(frames=1, widths=(8, 16)):
    model = {"kind": "visual_tokenizer", "widths": (8,), "time_strides": (2,) if frames > 1 else ()}
    data = {"size": 32, "frames": frames}
    return resolve({"data": data, "model": model, "discriminator": {"widths": widths}, "train": {"steps": 1}})


@pytest.mark.parametrize(("frames", "shape", "patches"), [(1, (13, 11), (4, 3)), (5, (5, 13, 11), (2, 4, 3))])
def test_logits_and_features_of_each_layer(frames, shape, patches):
    config = config_dict(frames)
    params = jax.jit(lambda: discriminator.init(config, jax.random.key(0)))()
    image = np.random.default_rng(0).uniform(-1, 1, (3, *shape, 3)).astype(np.float32)
    judge = jax.jit(lambda x: discriminator.build(config).apply({"params": params}, x))
    logits, features = judge(image)
    assert logits.shape == (3, *patches)
    assert [x.shape for x in features] == [(3, *(-(-n // 2) for n in shape), 8), (3, *patches, 16)]
    assert params["down_1"]["kernel"].shape == (4,) * len(shape) + (8, 16)
    changed = image.copy()
    changed[0] = 0
    np.testing.assert_allclose(judge(changed)[0][1:], logits[1:], atol=1e-5)
    assert np.abs(np.asarray(judge(changed)[0][0] - logits[0])).min() > 1e-4


@pytest.mark.parametrize("mesh", [MeshConfig(1, 8, 1), MeshConfig(1, 1, 8), MeshConfig(2, 2, 2)])
@pytest.mark.parametrize("config", [config_dict(), config_dict(5), config_dict(1, (16,))])
def test_matches_its_sharding_rules(config, mesh):
    shapes = jax.eval_shape(lambda: discriminator.init(config, jax.random.key(0)))
    found = match_rules(shapes, discriminator.sharding_rules(config), make_mesh(mesh))
    kernel = found["down_0"]["kernel"].shard_shape(shapes["down_0"]["kernel"].shape)
    assert kernel[-1] * mesh.model == config.discriminator.widths[0]
