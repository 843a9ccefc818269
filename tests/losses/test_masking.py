"""What is masked, against the closed forms of the schedules; masked modeling against formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

from mmjax import losses
from mmjax.config import resolve
from mmjax.losses.masked import mask_codes, mask_words, masked_fraction
from mmjax.models import masked_generator
from mmjax.types import MASK

CUMULATIVE = {
    # P(cos(pi u / 2) <= r) and P(2 / pi arccos(u) <= r) for uniform u
    "cosine": lambda r: 1 - 2 / np.pi * np.arccos(np.clip(r, 0, 1)),
    "arccos": lambda r: 1 - np.cos(np.pi / 2 * np.clip(r, 0, 1)),
}


@pytest.mark.parametrize("schedule", ["cosine", "arccos"])
def test_shares_are_distributed_as_the_schedule_says(schedule: str) -> None:
    shares = masked_fraction(jax.random.uniform(jax.random.key(0), (5000,)), schedule)
    assert kstest(np.asarray(shares), CUMULATIVE[schedule]).pvalue > 1e-3
    other = CUMULATIVE["arccos" if schedule == "cosine" else "cosine"]
    assert kstest(np.asarray(shares), other).pvalue < 1e-9


def test_ends_of_the_schedules() -> None:
    ends = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(masked_fraction(ends, "cosine"), [1, 0], atol=1e-6)
    np.testing.assert_allclose(masked_fraction(ends, "arccos"), [1, 0], atol=1e-6)


def test_each_example_is_masked_at_random_and_the_batch_evenly() -> None:
    codes = jnp.zeros((61, 5, 7), jnp.int32)
    counts, where = [], np.zeros((5, 7))
    for i in range(40):
        masked = np.asarray(mask_codes(codes, jax.random.key(i), "cosine"))
        counts.append(masked.reshape(61, -1).sum(1))
        where += masked.sum(0)
    counts = np.array(counts)
    assert counts.min() >= 1 and counts.max() == 35
    # Stratified: the mean share of a batch hardly varies, that of one example does.
    expected = 2 / np.pi * 35
    assert abs(counts.mean() - expected) < 0.7
    independent = np.sqrt((0.5 - 4 / np.pi**2) * 35**2 / 61)
    assert counts.mean(1).std() < independent / 3 and counts[:, 0].std() > 5
    # No place is preferred.
    total = where.sum()
    share = where / total * 35
    assert np.abs(share - 1).max() < 5 / np.sqrt(total / 35)


def test_some_examples_are_fully_masked_and_the_others_as_the_schedule_says() -> None:
    codes, text = jnp.zeros((4001, 59), jnp.int32), jnp.ones((4001, 1), jnp.int32)
    batch = {"codes": codes, "text": text, "mask": jnp.ones(4001, bool)}
    counts = np.asarray(training_loss(fully_masked=0.3).prepare(batch, jax.random.key(5))["masked"].sum(1))
    # Of the others, those whose fraction rounds up to all 59 tokens.
    assert (counts == 59).mean() == pytest.approx(0.3 + 0.7 * (1 - CUMULATIVE["cosine"](58 / 59)), abs=1e-3)
    found = (counts[:, None] <= np.arange(1, 59)).mean(0)
    np.testing.assert_allclose(found, 0.7 * CUMULATIVE["cosine"](np.arange(1, 59) / 59), atol=1e-3)


def test_words_are_hidden_and_nothing_else() -> None:
    text = jnp.tile(jnp.array([[7, 9, 3, 0, 0, 11, 1]], jnp.int32), (2000, 1))
    hidden = np.asarray(mask_words(text, jax.random.key(0), 0.15))
    share = (hidden == MASK).mean(0)
    assert (share[[2, 3, 4, 6]] == 0).all()
    np.testing.assert_allclose(share[[0, 1, 5]], 0.15, atol=4 * np.sqrt(0.15 * 0.85 / 2000))
    np.testing.assert_array_equal(hidden[hidden != MASK], np.asarray(text)[hidden != MASK])


def training_loss(**settings: object) -> losses.TrainingLoss:
    """Of a masked generator, with settings of its masked visual modeling."""
    config = resolve({
        "train": {"steps": 1},
        "model": {"kind": "masked_generator", "text_dropout": 0.25},
        "components": {"visual_tokenizer": {"train": {"steps": 1}, "model": {"kind": "visual_tokenizer"}}},
        "losses": {
            "masked_visual_modeling": settings,
            "masked_language_modeling": {"weight": 0.5, "mask_ratio": 0.3},
        },
    })  # fmt: skip
    return losses.build(config, functools.partial(masked_generator.prepare, config))


def test_masked_visual_modeling_is_cross_entropy_with_smoothed_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 5, 7))
    codes, masked = rng.integers(7, size=(2, 3, 5)), rng.random((2, 3, 5)) < 0.5
    target = np.eye(7)[codes] * 0.9 + 0.1 / 7
    entropy = -(target * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)
    weight = np.where(masked, 1.0, 0.2)
    expected = (entropy * weight).sum((1, 2)) / weight.sum((1, 2))
    text = np.array([[5, 6, 3], [7, 3, 0]])
    hidden = np.array([[5, MASK, 3], [7, 3, 0]])
    outputs = {
        "logits": jnp.asarray(logits, jnp.float32),
        "text_logits": jnp.asarray(norm.ppf(rng.random((2, 3, 9))), jnp.float32),
    }
    batch = {
        "codes": jnp.asarray(codes),
        "masked": jnp.asarray(masked),
        "text": jnp.asarray(text),
        "hidden_text": jnp.asarray(hidden),
    }
    terms = training_loss(label_smoothing=0.1, unmasked_weight=0.2).terms(outputs, batch)
    np.testing.assert_allclose(terms["masked_visual_modeling"], expected, rtol=1e-5)
    words = np.asarray(outputs["text_logits"], np.float64)
    chance = words[0, 1, 6] - np.log(np.exp(words[0, 1]).sum())
    np.testing.assert_allclose(terms["masked_language_modeling"], [-chance, 0.0], rtol=1e-5)


def test_what_the_model_is_handed() -> None:
    batch = {
        "text": jnp.full((400, 5), 9, jnp.int32),
        "codes": jnp.zeros((400, 3, 2), jnp.int32),
        "mask": jnp.ones(400, jnp.bool_),
        "key": jnp.arange(400, dtype=jnp.uint32),
    }
    loss = training_loss()
    inputs = loss.prepare(batch, jax.random.key(1))
    assert inputs.keys() == {"text", "codes", "masked", "text_mask", "hidden_text"}
    assert abs(float(inputs["text_mask"].mean()) - 0.75) < 0.09
    assert abs(float((inputs["hidden_text"] == MASK).mean()) - 0.3) < 0.06
    again = [loss.prepare(batch, None) for _ in range(2)]
    assert "text_mask" not in again[0]  # evaluated with its text, and always with the same tokens masked
    np.testing.assert_array_equal(again[0]["masked"], again[1]["masked"])


@pytest.mark.parametrize("schedule", ["cosine", "arccos"])
def test_the_schedule_of_the_config_is_that_of_the_masks(schedule: str) -> None:
    codes, text = jnp.zeros((4001, 59), jnp.int32), jnp.ones((4001, 1), jnp.int32)
    batch = {"codes": codes, "text": text, "mask": jnp.ones(4001, bool)}
    masked = training_loss(mask_schedule=schedule).prepare(batch, jax.random.key(3))["masked"]
    steps = np.arange(1, 60)  # how many of 59 are masked: the fraction, rounded up
    found = (np.asarray(masked.sum(1))[:, None] <= steps).mean(0)
    far = {name: np.abs(found - cumulative(steps / 59)).max() for name, cumulative in CUMULATIVE.items()}
    assert far[schedule] < 0.01 and min(far, key=far.__getitem__) == schedule
    assert max(far.values()) > 0.1
