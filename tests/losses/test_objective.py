"""Objectives against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import losses
from mmjax.types import UserError


@pytest.fixture(name="pair")
def random_pair():
    rng = np.random.default_rng(0)
    draw = lambda: jnp.asarray(rng.uniform(-1, 1, (5, 7, 3, 3)).astype(np.float32))  # noqa: E731
    return {"image": draw()}, {"image": draw(), "text": jnp.ones((5, 3), int), "mask": jnp.ones(5, bool)}


def test_terms_equal_numpy(pair):
    outputs, batch = pair
    difference = np.asarray(outputs["image"] - batch["image"], np.float64).reshape(5, -1)
    both = losses.build({"mean_squared_error": 2.0, "mean_absolute_error": 0.5}, ("text",))
    terms = both.terms(outputs, batch)
    np.testing.assert_allclose(terms["mean_squared_error"], (difference**2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(terms["mean_absolute_error"], np.abs(difference).mean(1), rtol=1e-5)
    expected = 2 * (difference**2).mean(1) + 0.5 * np.abs(difference).mean(1)
    np.testing.assert_allclose(both.loss(terms), expected, rtol=1e-5)


def test_unknown_term_names_the_nearest():
    with pytest.raises(UserError, match=r"objective.terms.mean_square_error: .*mean_squared_error\?"):
        losses.build({"mean_square_error": 1.0}, ("text",))


@pytest.mark.parametrize("name", ["reference", "reference_codes"])
def test_reference_is_dropped_as_often_as_asked(pair, name):
    batch = pair[1] | {"mask": jnp.ones(4001, bool), "reference_codes": jnp.ones((5, 3), int)}
    dropping = losses.build({"mean_squared_error": 1.0}, ("text", name), reference_dropout=0.3)
    given = dropping.prepare(batch, jax.random.key(3))["reference_mask"]
    assert abs(float(jnp.mean(given.astype(jnp.float32))) - 0.7) < 0.03


def test_evaluation_withholds_nothing(pair):
    seen = losses.build({"mean_squared_error": 1.0}, ("text", "reference"), reference_dropout=0.9).prepare(
        pair[1], None
    )
    assert set(seen) == {"text", "reference"}
    assert set(losses.build({"mean_squared_error": 1.0}, ("text",)).prepare(pair[1], jax.random.key(0))) == {"text"}


def test_what_the_terms_of_images_and_texts_are_given():
    text = jnp.asarray([[5, 6, 3], [0, 0, 0], [3, 0, 0], [5, 6, 3]], jnp.int32)
    batch = {"text": text, "image": jnp.zeros((4, 2, 2, 3)), "mask": jnp.array([True, True, True, False])}
    weights = {"contrastive": 1.0, "matching": 1.0, "masked_patch_modeling": 1.0}
    goal = losses.build(weights, ("image", "text", "rows"), mim_mask_ratio=0.7)
    for rng in (jax.random.key(0), None):
        seen = goal.prepare(batch, rng)
        _, groups, there = seen["negatives"]
        np.testing.assert_array_equal(there, [True, False, False, False])
        assert groups[0] == groups[3] and len(np.unique(groups)) == 3
        assert seen["hide_patches"][1] == 0.7 and seen["training"] == (rng is not None)
        np.testing.assert_array_equal(seen["rows"], batch["mask"])
