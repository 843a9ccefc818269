"""A masked generator with a frozen text encoder: what it sees of the features, and what stands for no text."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import models
from mmjax.config import Config, MeshConfig
from mmjax.models import masked_generator
from mmjax.parallel import make_mesh, match_rules

CONFIG: dict[str, Any] = {
    "data": {"size": 40},
    "text": {"length": 7},
    "components": {
        "visual_tokenizer": {
            "data": {"size": 40},
            "model": {"kind": "visual_tokenizer", "widths": [8, 8, 8], "levels": [5, 4]},
            "train": {"steps": 7},
        },
        "text_encoder": {"text": {"vocabulary": 320}, "model": {"width": 12, "heads": 1}, "train": {"steps": 7}},
    },
    "model": {"kind": "masked_generator", "width": 16, "heads": 2, "layers": 2},
    "losses": {"masked_visual_modeling": {}},
    "train": {"steps": 7},
}
TEXT = jnp.array([[7, 9, 11, 3, 0, 0, 0], [8, 3, 0, 0, 0, 0, 0]], jnp.int32)
FEATURES = jax.random.normal(jax.random.key(4), (2, 7, 12), jnp.float16)
CODES = jax.random.randint(jax.random.key(2), (2, 5, 5), 0, 20)
MASKED = jax.random.uniform(jax.random.key(3), (2, 5, 5)) < 0.5


@functools.partial(jax.jit, static_argnums=0)
def apply(model: Any, params: Any, text: Any, **seen: Any) -> Any:
    return model.apply({"params": params}, text, CODES, MASKED, **seen)


def logits(config: Config, params: Any, text: Any = TEXT, features: Any = FEATURES, **seen: Any) -> Any:
    return np.asarray(apply(models.build(config), params, text, text_features=features, **seen)["logits"])


def test_features_are_looked_at_but_those_of_padding(config: Config, params: Any) -> None:
    found = logits(config, params)
    assert found.shape == (2, 5, 5, 20) and np.isfinite(found).all()
    assert np.abs(found - logits(config, params, features=FEATURES.at[0, 3].set(0.5))).max() > 1e-3
    behind = jnp.where((TEXT == 0)[..., None], 99, FEATURES).astype(jnp.float16)
    np.testing.assert_allclose(logits(config, params, features=behind), found, atol=1e-5)
    others = jnp.where(TEXT == 0, 0, TEXT + 1)  # which tokens the features are of does not matter
    np.testing.assert_array_equal(logits(config, params, text=others), found)


def test_no_text_is_one_learned_vector(config: Config, params: Any) -> None:
    none = logits(config, params, text_mask=jnp.array([False, True]))
    np.testing.assert_allclose(none[1], logits(config, params)[1], atol=1e-5)
    other = logits(config, params, text=jnp.zeros_like(TEXT), features=FEATURES[::-1])
    np.testing.assert_allclose(none[0], other[0], atol=1e-5)
    context = jax.jit(masked_generator.model_fns(config).context)
    features, mask = context(params, jnp.zeros_like(TEXT), text_features=FEATURES)
    np.testing.assert_array_equal(features[:, 0], np.tile(params["text"]["null_embedding"], (2, 1)))
    assert mask[:, 0, 0].tolist() == [[True, *[False] * 6]] * 2
    assert context(params, TEXT, text_features=FEATURES)[1][:, 0, 0].tolist() == (TEXT != 0).tolist()
    changed = {**params, "text": {**params["text"], "null_embedding": params["text"]["null_embedding"] + 1}}
    np.testing.assert_array_equal(logits(config, changed), logits(config, params))
    assert np.abs(logits(config, changed, text_mask=jnp.array([False, True]))[0] - none[0]).max() > 1e-3


def test_every_parameter_has_a_place_on_the_mesh(config: Config) -> None:
    """And the text encoder is none of them."""
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(1)))
    match_rules(shapes, models.sharding_rules(config), make_mesh(MeshConfig(2, 2, 2)))
    assert {name: jax.tree.map(lambda x: x.shape, shapes["text"][name]) for name in shapes["text"]} == {
        "norm": {"scale": (12,), "bias": (12,)}, "project": {"kernel": (12, 16), "bias": (16,)}, "null_embedding": (16,)
    }  # fmt: skip
