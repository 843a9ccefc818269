"""Losses of the two players and regularizers against formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses.adversarial import (
    Adversarial,
    discriminator_loss,
    feature_matching,
    generator_loss,
    lecam,
    r1,
)


@pytest.fixture(name="logits")
def random_logits():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(0, 3, (5, 3, 7)).astype(np.float32)) for _ in range(2)]


def of_each(values):
    return np.asarray(values, np.float64).reshape(5, -1).mean(axis=1)


def test_non_saturating_losses(logits):
    real, fake = (np.asarray(x, np.float64) for x in logits)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    found = discriminator_loss(*logits, "non_saturating")
    np.testing.assert_allclose(found, of_each(-np.log(sigmoid(real)) - np.log(1 - sigmoid(fake))), rtol=1e-5)
    np.testing.assert_allclose(generator_loss(logits[1], "non_saturating"), of_each(-np.log(sigmoid(fake))), rtol=1e-5)


def test_hinge_losses(logits):
    real, fake = (np.asarray(x) for x in logits)
    expected = of_each(np.maximum(0, 1 - real) + np.maximum(0, 1 + fake))
    np.testing.assert_allclose(discriminator_loss(*logits, "hinge"), expected, rtol=1e-5)
    np.testing.assert_allclose(generator_loss(logits[1], "hinge"), of_each(-fake), rtol=1e-5)


def test_confident_losses_are_finite():
    sure = jnp.full((2, 1), 1e4)
    assert float(discriminator_loss(-sure, sure, "non_saturating")[0]) == pytest.approx(2e4)
    assert float(generator_loss(sure, "non_saturating")[0]) == 0


def test_lecam_is_the_papers_equation(logits):
    real, fake = (np.asarray(x) for x in logits)
    averages = {"real": jnp.float32(0.7), "fake": jnp.float32(-1.3)}
    expected = of_each((real + 1.3) ** 2 + (fake - 0.7) ** 2)
    np.testing.assert_allclose(lecam(*logits, averages), expected, rtol=1e-5)


def test_r1_of_one_logit_is_half_the_squared_norm_of_its_gradient():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 5, 2)).astype(np.float32)
    x = rng.normal(size=(7, 3, 5, 2)).astype(np.float32)
    judge = lambda x: jnp.sum(a[None] * x + 0.5 * b[None] * x**2, axis=(1, 2, 3))[:, None]  # noqa: E731
    gradient = a + b * x.astype(np.float64)
    np.testing.assert_allclose(r1(judge, jnp.asarray(x)), 0.5 * (gradient**2).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_r1_of_patches_that_see_different_pixels_is_their_mean():
    x = np.random.default_rng(2).normal(size=(5, 7, 3)).astype(np.float32)
    judge = lambda x: jnp.sum(jnp.sin(x), axis=-1)  # noqa: E731  # 7 patches of 3 numbers
    each = 0.5 * (np.cos(x.astype(np.float64)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(r1(judge, jnp.asarray(x)), each.mean(axis=1), rtol=1e-5)


def test_feature_matching_weighs_layers_alike():
    rng = np.random.default_rng(3)
    shapes = [(5, 4, 3, 7), (5, 2, 11)]
    ours, theirs = ([rng.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(2))
    expected = np.mean([np.abs(a - b).reshape(5, -1).mean(axis=1) for a, b in zip(ours, theirs, strict=True)], axis=0)
    np.testing.assert_allclose(
        feature_matching([*map(jnp.asarray, ours)], [*map(jnp.asarray, theirs)]), expected, rtol=1e-5
    )


@pytest.mark.parametrize("regularizer", ["r1", "lecam", "none"])
def test_the_discriminators_loss_adds_its_regularizer_up(regularizer):
    rng = np.random.default_rng(4)
    batch, outputs = ({"image": jnp.asarray(rng.normal(size=(5, 3, 2)).astype(np.float32))} for _ in range(2))
    judge = lambda params, x: (jnp.sum(params["psi"] * x, axis=-1), [x])  # noqa: E731
    params, averages = {"psi": jnp.float32(0.3)}, {"real": jnp.float32(0.2), "fake": jnp.float32(-0.1)}
    losses = jax.jit(lambda p: Adversarial(judge, "hinge", regularizer, 7.0).losses(p, outputs, batch, averages))
    found = losses(params)
    real, fake = 0.3 * batch["image"].sum(axis=-1), 0.3 * outputs["image"].sum(axis=-1)
    extra = {
        "r1": np.full(5, 0.5 * 6 * 0.3**2 / 3),
        "lecam": of_each((real + 0.1) ** 2 + (fake - 0.2) ** 2),
        "none": np.zeros(5),
    }[regularizer]
    np.testing.assert_allclose(found["discriminator/regularizer"], extra, rtol=1e-5)
    np.testing.assert_allclose(found["discriminator/real"], of_each(real), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["discriminator/fake"], of_each(fake), rtol=1e-4, atol=1e-6)
    both = of_each(np.maximum(0, 1 - real) + np.maximum(0, 1 + fake))
    np.testing.assert_allclose(found["discriminator/loss"], both + 7 * extra, rtol=1e-5)
    if regularizer == "r1":  # what trains: the gradient of the gradient
        slope = jax.jit(jax.grad(lambda p: jnp.sum(losses(p)["discriminator/regularizer"])))(params)
        assert float(slope["psi"]) == pytest.approx(5 * 6 * 0.3 / 3, rel=1e-5)
