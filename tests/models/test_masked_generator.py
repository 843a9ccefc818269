"""The masked generator: what it may see, its sharding, and what does not depend on its size."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import models
from mmjax.config import Config, MeshConfig, resolve
from mmjax.models.masked_transformer import CodeEmbedding
from mmjax.nn import fsq
from mmjax.nn.compute import Compute
from mmjax.nn.transformer import Block, Stack
from mmjax.parallel import make_mesh, match_rules
from mmjax.types import UserError

TOKENIZER: dict[str, Any] = {
    "data": {"size": 40},
    "model": {"kind": "visual_tokenizer", "widths": [8, 8, 8], "levels": [5, 3]},
    "train": {"steps": 7},
}
CONFIG: dict[str, Any] = {
    "data": {"size": 40},
    "text": {"length": 7, "vocabulary": 320},
    "components": {"visual_tokenizer": TOKENIZER},
    "model": {"kind": "masked_generator", "width": 16, "heads": 2, "layers": 3, "text_layers": 1},
    "losses": {"masked_visual_modeling": {}},
    "train": {"steps": 7},
}
TEXT = jnp.array([[7, 9, 11, 3, 0, 0, 0], [8, 3, 0, 0, 0, 0, 0]], jnp.int32)
CODES = jax.random.randint(jax.random.key(2), (2, 5, 5), 0, 15)
MASKED = jax.random.uniform(jax.random.key(3), (2, 5, 5)) < 0.5


@functools.partial(jax.jit, static_argnums=0)
def apply(model: Any, params: Any, *seen: Any, **more: Any) -> Any:
    return model.apply({"params": params}, *seen, **more)


def logits(config: Config, params: Any, text: Any = TEXT, codes: Any = CODES, masked: Any = MASKED, **seen: Any) -> Any:
    return np.asarray(apply(models.build(config), params, text, codes, masked, **seen)["logits"])


def test_what_is_masked_is_not_seen(config: Config, params: Any) -> None:
    found = logits(config, params)
    assert found.shape == (2, 5, 5, 15)
    np.testing.assert_array_equal(found, logits(config, params, codes=jnp.where(MASKED, 0, CODES)))
    assert np.abs(found - logits(config, params, codes=jnp.where(MASKED, CODES, 0))).max() > 1e-3
    assert np.abs(found - logits(config, params, masked=~MASKED)).max() > 1e-3


def test_the_text_is_looked_at_unless_there_is_none(config: Config, params: Any) -> None:
    found = logits(config, params)
    other = logits(config, params, text=TEXT[::-1])
    assert np.abs(found - other).max() > 1e-3
    none = logits(config, params, text_mask=jnp.array([False, False]))
    np.testing.assert_allclose(none, logits(config, params, text=jnp.zeros_like(TEXT)), atol=1e-6)
    np.testing.assert_allclose(logits(config, params, text_mask=jnp.array([True, False]))[0], found[0], atol=1e-5)
    assert np.isfinite(none).all()


def test_examples_do_not_see_each_other(config: Config, params: Any) -> None:
    def second(table: Any) -> Any:
        seen = (TEXT, CODES, MASKED.at[1].set(False))
        return apply(models.build(config), {**params, "mask": table}, *seen)["logits"][1].sum()

    gradient = jax.jit(jax.grad(second))(params["mask"])
    np.testing.assert_array_equal(gradient, 0)  # only the first example holds masked places


def test_hidden_words_are_told_from_the_text_alone(config: Config, params: Any) -> None:
    outputs = apply(models.build(config), params, TEXT, CODES, MASKED, hidden_text=TEXT.at[:, 0].set(4))
    assert outputs["text_logits"].shape == (2, 7, 320)
    np.testing.assert_allclose(outputs["logits"], logits(config, params), atol=1e-6)


def test_the_parameters_suit_any_grid(config: Config, params: Any) -> None:
    tokenizer = TOKENIZER | {"data": {"size": 56}}
    larger = resolve(CONFIG | {"data": {"size": 56}, "components": {"visual_tokenizer": tokenizer}})
    shapes = jax.eval_shape(lambda: models.init(larger, jax.random.key(1)))
    assert jax.tree.map(lambda p: p.shape, params) == jax.tree.map(lambda p: p.shape, shapes)
    codes = jnp.zeros((2, 7, 7), jnp.int32)
    assert logits(larger, params, codes=codes, masked=codes == 0).shape == (2, 7, 7, 15)


@pytest.mark.parametrize("local_blocks", [0, 1])
def test_every_parameter_has_a_place_on_the_mesh(local_blocks: int) -> None:
    tokenizer = TOKENIZER | {"model": TOKENIZER["model"] | {"levels": [5, 4]}}
    model = CONFIG["model"] | {"local_blocks": local_blocks}
    config = resolve(CONFIG | {"components": {"visual_tokenizer": tokenizer}, "model": model})
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(1)))
    shardings = match_rules(shapes, models.sharding_rules(config), make_mesh(MeshConfig(2, 2, 2)))
    split = [s for s in jax.tree.leaves(shardings) if any(axis is not None for axis in s.spec)]
    assert len(split) > 20


def test_a_scanned_stack_is_its_blocks_one_after_the_other() -> None:
    x, context = jax.random.normal(jax.random.key(0), (2, 5, 8)), jax.random.normal(jax.random.key(1), (2, 3, 8))
    stack = Stack(3, 2)
    params = jax.jit(stack.init)(jax.random.key(2), x, None, context)["params"]
    (stacked,) = params.values()
    expected = x
    for i in range(3):
        layer = jax.tree.map(lambda p, i=i: p[i], stacked)
        expected, _ = apply(Block(2), layer, expected, None, context)
    np.testing.assert_allclose(apply(stack, params, x, None, context)[0], expected, atol=1e-5)
    plain, *others = (
        jax.grad(lambda p, m=m: (m.apply({"params": p}, x, None, context)[0] ** 2).sum())(params)
        for m in (stack, Stack(3, 2, Compute(remat=True)), Stack(3, 2, Compute(unroll=3)))
    )
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), plain, other)


def test_codes_share_what_their_digits_share() -> None:
    table = CodeEmbedding((5, 3), 7)
    params = table.init(jax.random.key(0))["params"]
    digits = np.rint((np.asarray(fsq.to_codes(jnp.arange(15), (5, 3))) + 1) * np.array([2, 1])).astype(int)
    expected = params["embedding"] + params["digit_0"][digits[:, 0]] + params["digit_1"][digits[:, 1]]
    np.testing.assert_allclose(table.apply({"params": params}), expected, atol=1e-6)


def tokenizer_of(**changes: Any) -> dict[str, Any]:
    return {"components": {"visual_tokenizer": TOKENIZER | changes}}


@pytest.mark.parametrize(("changes", "field", "value"), [
    ({"components": {}}, "components.visual_tokenizer", "needs "),
    ({"data": {"size": 48}}, "data.size", "48"),
    (tokenizer_of(model={}), "components.visual_tokenizer.config.model.kind", "direct_generator"),
    (tokenizer_of(train={"stepz": 7}), "components.visual_tokenizer.config.train.stepz", "no such field"),
    (tokenizer_of(train={"batch": 7}), "components.visual_tokenizer.config.train.steps", "train.epochs"),
    ({"components": {"tokenizer": TOKENIZER}}, "components.tokenizer", "visual_tokenizer"),
    ({"sampling": {"guidance": -1.0}}, "sampling.guidance", "-1.0"),
    ({"sampling": {"steps": 0}}, "sampling.steps", "0"),
    ({"model": {"kind": "masked_generator", "text_dropout": 1.5}}, "model.text_dropout", "1.5"),
])  # fmt: skip
def test_configs_that_cannot_be(changes: dict[str, Any], field: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(field)}[:,] .*{re.escape(value)}"):
        resolve(CONFIG | changes)
