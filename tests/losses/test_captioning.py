"""Cross-entropies of texts, classes and patches against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from mmjax.losses.cross_entropy import ANSWERING, CAPTIONING, classification
from mmjax.losses.masked import masked_patch_modeling

RNG = np.random.default_rng(0)


def test_texts_are_scored_by_their_tokens_and_their_end_alone() -> None:
    text = np.array([[7, 9, 3, 0, 0], [11, 3, 0, 0, 0], [3, 0, 0, 0, 0], [0, 0, 0, 0, 0], [5, 6, 7, 8, 9]], np.int32)
    logits = RNG.normal(size=(5, 5, 13)).astype(np.float32)
    chances = log_softmax(logits.astype(float), axis=-1)
    expected = [-np.mean([chances[i, t, token] for t, token in enumerate(row) if token] or [0.0])
                for i, row in enumerate(text)]  # fmt: skip
    logits, text = jnp.asarray(logits), jnp.asarray(text)
    for spec, field in ((CAPTIONING, "text"), (ANSWERING, "answer")):
        found = jax.jit(spec.loss)({spec.needs[0]: logits}, {field: text})
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_classes_count_where_there_is_one() -> None:
    logits, label = RNG.normal(size=(5, 7)).astype(np.float32), np.array([0, 6, -1, 3, -1], np.int32)
    chances = log_softmax(logits.astype(float), axis=-1)
    expected = [-chances[i, k] if k >= 0 else 0.0 for i, k in enumerate(label)]
    found = jax.jit(classification)({"class_logits": jnp.asarray(logits)}, {"label": jnp.asarray(label)})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_hidden_patches_count() -> None:
    patches, pixels = RNG.normal(size=(2, 3, 5, 7)).astype(np.float32)
    hidden = np.array([[True, False, True, False, False], [False] * 5, [True] * 5])
    expected = [np.abs(a - b)[h].mean() if h.any() else 0.0 for a, b, h in zip(patches, pixels, hidden, strict=True)]
    outputs = {"patches": patches, "patch_pixels": pixels, "hidden_patches": hidden}
    found = jax.jit(masked_patch_modeling)(jax.tree.map(jnp.asarray, outputs), {})
    np.testing.assert_allclose(found, expected, atol=1e-6)
