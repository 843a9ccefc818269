"""The visual tokenizer: images to codes and back, the same way in one call and in two."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import models
from mmjax.config import resolve
from mmjax.models import visual_tokenizer
from mmjax.types import UserError

TINY = {
    "data": {"size": 32},
    "model": {"kind": "visual_tokenizer", "widths": (5, 7), "blocks": 1, "levels": (3, 5, 2)},
    "train": {"steps": 1},
}


def compiled(module: Any) -> Any:
    return jax.jit(module.apply, static_argnames="method")


@pytest.fixture(name="tiny", scope="module")
def tiny_model():
    config = resolve(TINY)
    image = jax.random.uniform(jax.random.key(2), (3, 32, 32, 3), minval=-1.0)
    params = jax.jit(lambda: models.init(config, jax.random.key(0)))()
    return compiled(models.build(config)), {"params": params}, image


def test_one_call_is_encoding_and_decoding(tiny):
    apply, params, image = tiny
    outputs = apply(params, image)
    codes = apply(params, image, method="encode")
    assert codes.shape == (3, 8, 8) and int(codes.min()) >= 0 and int(codes.max()) < 30
    np.testing.assert_array_equal(outputs["codes"], codes.reshape(3, 64))
    decoded = apply(params, codes, method="decode")
    assert decoded.shape == image.shape and decoded.dtype == jnp.float32
    np.testing.assert_allclose(outputs["image"], decoded, atol=1e-5)


def test_images_do_not_see_each_other(tiny):
    apply, params, image = tiny
    changed = apply(params, image.at[0].set(0.0))["image"]
    np.testing.assert_allclose(changed[1:], apply(params, image)["image"][1:], atol=1e-5)


def test_gradients_reach_the_encoder_through_the_rounding(tiny):
    apply, params, image = tiny
    grads = jax.jit(jax.grad(lambda p: jnp.mean(jnp.square(apply(p, image)["image"] - image))))(params)
    for name, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.abs(leaf).max()) > 0, name


@pytest.mark.parametrize(("changes", "field", "value"), [
    ({"levels": (3, 1)}, "model.levels", "1"),
    ({"levels": ()}, "model.levels", ""),
    ({"levels": (64,) * 5}, "model.levels", "1,073,741,824"),
    ({"widths": ()}, "model.widths", ""),
    ({"widths": (4,) * 6}, "data.size", "32"),
    ({"time_strides": (1, 3)}, "model.time_strides", "3"),
    ({"time_strides": (1,)}, "model.time_strides", "[1]"),
    ({"code_noise_prob": 1.5}, "model.code_noise_prob", "1.5"),
    ({"kind": "tokenizer"}, "model.kind", "'tokenizer'"),
    ({"heads": 3}, "model.heads", "no such field"),
])  # fmt: skip
def test_configs_that_cannot_be(changes, field, value):
    with pytest.raises(UserError) as error:
        resolve(TINY | {"model": TINY["model"] | changes})
    assert str(error.value).startswith(f"{field}: ") and value in str(error.value)


def test_codes_are_replaced_in_training_alone():
    config = resolve(TINY | {"model": TINY["model"] | {"code_noise_prob": 0.3}})
    batch = {"image": jnp.zeros((3, 32, 32, 3))}
    key, fraction = visual_tokenizer.prepare(config, batch, jax.random.key(3))["corrupt"]
    assert fraction == 0.3 and key == jax.random.key(3)
    assert visual_tokenizer.prepare(config, batch, None).keys() == {"image"}
    assert visual_tokenizer.prepare(resolve(TINY), batch, jax.random.key(3)).keys() == {"image"}


@pytest.fixture(name="video", scope="module")
def clip_tokenizer() -> tuple[Any, Any]:
    model = visual_tokenizer.VisualTokenizerConfig(widths=(8, 12), time_strides=(1, 2), blocks=1, levels=(5, 3))
    module = visual_tokenizer.VisualTokenizer(model)
    return compiled(module), jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 5, 8, 8, 3)))


CLIP = jax.random.uniform(jax.random.key(1), (1, 5, 8, 8, 3), minval=-1)


def test_no_frame_of_a_clip_sees_a_later_one(video: Any) -> None:
    apply, params = video

    def each_frame(image: jax.Array) -> jax.Array:
        return (apply(params, image)["image"] ** 2).sum((0, 2, 3, 4))

    # 5 frames are 3 grids, of frame 0, of 1 and 2, and of 3 and 4: a frame is decoded with those it was coded with.
    seen = np.abs(jax.jit(jax.jacrev(each_frame))(CLIP)).sum((1, 3, 4, 5)) > 0
    for number, last in enumerate((0, 2, 2, 4, 4)):
        assert not seen[number][last + 1 :].any() and seen[number][0], number
    assert seen[4].all() and seen[1][1]


def test_an_image_is_a_clip_of_one_frame(video: Any) -> None:
    apply, params = video
    clip, first, image = apply(params, CLIP), apply(params, CLIP[:, :1]), apply(params, CLIP[:, 0])
    assert clip["codes"].shape == (1, 3 * 2 * 2) and image["image"].shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(first["codes"], clip["codes"][:, :4])
    np.testing.assert_array_equal(image["codes"], first["codes"])
    np.testing.assert_allclose(first["image"][:, 0], image["image"], atol=1e-6)
    np.testing.assert_allclose(clip["image"][:, 0], image["image"], atol=1e-5)


@pytest.mark.parametrize(("frames", "grids"), [(2, 2), (5, 3)])
def test_clips_of_any_length(video: Any, frames: int, grids: int) -> None:
    apply, params = video
    outputs = apply(params, CLIP[:, :frames])
    assert outputs["image"].shape == (1, frames, 8, 8, 3) and outputs["codes"].shape == (1, 4 * grids)
    codes = apply(params, CLIP[:, :frames], method="encode")
    decoded = apply(params, codes, method="decode")
    np.testing.assert_allclose(decoded[:, :frames], outputs["image"], atol=1e-5)


def test_corrupted_codes_reach_the_decoder_alone() -> None:
    model = visual_tokenizer.VisualTokenizerConfig(widths=(8, 12), blocks=0, levels=(5, 3))
    module = visual_tokenizer.VisualTokenizer(model)
    images = jax.random.uniform(jax.random.key(1), (7, 20, 20, 3), minval=-1)
    params = jax.jit(module.init)(jax.random.key(0), images)
    plain = compiled(module)(params, images)
    for share in (0.0, 0.3):
        corrupted = functools.partial(module.apply, corrupt=(jax.random.key(2), share))
        outputs = jax.jit(corrupted)(params, images)
        np.testing.assert_array_equal(outputs["codes"], plain["codes"])
        changed = (jnp.abs(outputs["image"] - plain["image"]) > 1e-6).any((1, 2, 3))
        assert bool(changed.any()) == (share > 0)
