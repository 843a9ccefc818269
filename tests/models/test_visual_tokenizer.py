"""The visual tokenizer: pictures to codes and back, the same way in one call and in two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import models
from mmjax.config import resolve
from mmjax.types import UserError

TINY = {
    "data": {"size": 32},
    "model": {"kind": "visual_tokenizer", "widths": (5, 7), "blocks": 1, "levels": (3, 5, 2)},
    "train": {"steps": 1},
}


@pytest.fixture(name="tiny", scope="module")
def tiny_model():
    config = resolve(TINY)
    image = jax.random.uniform(jax.random.key(2), (3, 32, 32, 3), minval=-1.0)
    return models.build(config), {"params": models.init(config, jax.random.key(0))}, image


def test_one_call_is_encoding_and_decoding(tiny):
    module, params, image = tiny
    outputs = module.apply(params, image=image)
    codes = module.apply(params, image, method="encode")
    assert codes.shape == (3, 8, 8) and int(codes.min()) >= 0 and int(codes.max()) < 30
    np.testing.assert_array_equal(outputs["codes"], codes.reshape(3, 64))
    decoded = module.apply(params, codes, method="decode")
    assert decoded.shape == image.shape and decoded.dtype == jnp.float32
    np.testing.assert_allclose(outputs["image"], decoded, atol=1e-5)


def test_pictures_do_not_see_each_other(tiny):
    module, params, image = tiny
    changed = module.apply(params, image=image.at[0].set(0.0))["image"]
    np.testing.assert_allclose(changed[1:], module.apply(params, image=image)["image"][1:], atol=1e-5)


def test_gradients_reach_the_encoder_through_the_rounding(tiny):
    module, params, image = tiny
    grads = jax.grad(lambda p: jnp.mean(jnp.square(module.apply(p, image=image)["image"] - image)))(params)
    for name, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.abs(leaf).max()) > 0, name


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"levels": (3, 1)}, "model.levels: needs at least one, each above 1"),
        ({"levels": (64,) * 5}, "model.levels: 1,073,741,824 codes are more than 2 ** 24"),
        ({"widths": ()}, "model.widths: needs at least one width"),
        ({"widths": (4,) * 6}, "data.size: must be a multiple of 64, for 6 widths, not 32"),
        ({"kind": "tokenizer"}, "model.kind: must be one of direct, visual_tokenizer, masked_generator, not 'tokenizer'"),
        ({"heads": 3}, "model.heads: no such field"),
    ],
)
def test_recipes_that_cannot_be(changes, line):
    with pytest.raises(UserError) as error:
        resolve(TINY | {"model": TINY["model"] | changes})
    assert str(error.value).startswith(line)
