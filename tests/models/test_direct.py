"""The direct generator: what its output depends on, and what it does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import models
from mmjax.config import MeshConfig, resolve
from mmjax.models import direct
from mmjax.nn.compute import Compute
from mmjax.parallel import make_mesh, match_rules

TINY = {
    "data": {"size": 32},
    "text": {"length": 7, "vocabulary": 307},
    "model": {
        "width": 12,
        "heads": 3,
        "text_layers": 1,
        "vision_layers": 1,
        "fusion_layers": 1,
        "decoder_widths": (5, 7),
    },
    "train": {"steps": 1},
}


@pytest.fixture(name="tiny", scope="module")
def tiny_model():
    config = resolve(TINY)
    module = models.build(config)
    params = jax.jit(lambda: models.init(config, jax.random.key(0)))()
    text = jax.random.randint(jax.random.key(1), (3, 7), 1, 307).at[:, 5:].set(0)
    reference = jax.random.uniform(jax.random.key(2), (3, 32, 32, 3), minval=-1.0)
    apply = jax.jit(lambda params, **seen: module.apply({"params": params}, **seen)["image"])
    return functools.partial(apply, params), text, reference


def test_draws_with_and_without_reference(tiny):
    apply, text, reference = tiny
    alone, seen = apply(text=text), apply(text=text, reference=reference)
    assert alone.shape == seen.shape == (3, 32, 32, 3)
    assert alone.dtype == jnp.float32
    assert not np.allclose(alone, seen)


def test_masked_reference_is_no_reference(tiny):
    apply, text, reference = tiny
    mixed = apply(text=text, reference=reference, reference_mask=jnp.array([True, False, True]))
    np.testing.assert_allclose(mixed[1], apply(text=text)[1], atol=1e-5)
    np.testing.assert_allclose(mixed[0], apply(text=text, reference=reference)[0], atol=1e-5)


def test_order_of_words_matters_and_length_of_padding_does_not(tiny):
    apply, text, _ = tiny
    assert not np.allclose(apply(text=text), apply(text=text.at[:, :2].set(text[:, 1::-1])), atol=1e-4)
    longer = jnp.pad(text, ((0, 0), (0, 4)))
    np.testing.assert_allclose(apply(text=longer), apply(text=text), atol=1e-5)


def test_examples_do_not_see_each_other(tiny):
    apply, text, reference = tiny
    changed = apply(text=text.at[0].set(9), reference=reference.at[0].set(0.0))
    np.testing.assert_allclose(changed[1:], apply(text=text, reference=reference)[1:], atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["bilinear", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cross_attention", "joint", "mlp"))]
)
def test_every_fusion_has_its_rules_and_looks_at_the_text(kind):
    for reference in ("image", ""):
        changed = TINY["model"] | {"width": 24, "heads": 4, "decoder_widths": (8, 8)}
        config_dict = TINY | {"text": {"length": 7, "vocabulary": 308}, "model": changed}
        config_dict["model"] |= {"fusion": kind, "reference": reference}
        config = resolve(config_dict)
        shapes = jax.eval_shape(lambda config=config: models.init(config, jax.random.key(0)))
        match_rules(shapes, models.sharding_rules(config), make_mesh(MeshConfig(2, 2, 2)))
    params = jax.jit(lambda: models.init(config, jax.random.key(0)))()
    draw = jax.jit(lambda text: models.build(config).apply({"params": params}, text)["image"])
    first, second = draw(jnp.array([[5, 6, 7, 0, 0, 0, 0], [5, 6, 8, 0, 0, 0, 0]]))
    assert np.abs(first - second).max() > 1e-3


def test_bfloat16_computes_with_float32_parameters(tiny):
    apply, text, reference = tiny
    (params,), compute = apply.args, Compute(dtype=jnp.dtype("bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    module = models.build(resolve(TINY), compute)
    draw = jax.jit(lambda p: module.apply({"params": p}, text=text, reference=reference)["image"])
    program = str(draw.trace(params).jaxpr)
    products = [line for line in program.splitlines() if "dot_general" in line or "conv_general_dilated" in line]
    assert products
    in_float32 = [line for line in products if "bf16" not in line]
    assert len(in_float32) <= 2 * 3, in_float32  # the scores of the three attentions are summed in float32
    np.testing.assert_allclose(draw(params), apply(text=text, reference=reference), atol=0.1)


@pytest.mark.parametrize("name", ["image", "low_resolution"])
def test_the_reference_is_the_field_that_the_config_names_and_is_dropped_as_often_as_asked(name):
    config = resolve(TINY | {"model": TINY["model"] | {"reference_dropout": 0.3}})
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, reference=name))  # of other data
    ones = jnp.ones((4001, 1, 1, 3))
    batch = {"text": jnp.ones((4001, 7), int), "mask": jnp.ones(4001, bool), "image": 0 * ones, name: ones}
    inputs = direct.prepare(config, batch, jax.random.key(3))
    assert inputs["reference"].min() == 1
    assert abs(float(inputs["reference_mask"].mean()) - 0.7) < 0.03
    assert direct.prepare(config, batch, None).keys() == {"text", "reference"}  # nothing is dropped in evaluation
    without = resolve(TINY | {"model": TINY["model"] | {"reference": ""}})
    assert direct.prepare(without, batch, jax.random.key(3)).keys() == {"text"} == models.inputs(without).keys()
