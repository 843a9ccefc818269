"""Objectives: named terms with weights, added up.

A term is a function of the model's outputs and the batch that gives one loss an example, float32 [b]. To add one,
write the function in a file of its own and name it in TERMS; a config weighs it in `objective.terms`.
"""

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.losses import masking
from mmjax.losses.captioning import answering, captioning
from mmjax.losses.classification import classification
from mmjax.losses.contrastive import contrastive, has_text, sigmoid_contrastive, text_groups
from mmjax.losses.masked_language_modeling import masked_language_modeling
from mmjax.losses.masked_patch_modeling import masked_patch_modeling
from mmjax.losses.masked_visual_modeling import masked_visual_modeling
from mmjax.losses.matching import matching
from mmjax.losses.mean_absolute_error import mean_absolute_error
from mmjax.losses.mean_squared_error import mean_squared_error
from mmjax.types import Batch, Outputs, UserError

Term = Callable[[Outputs, Batch], Float[Array, "b"]]
BLOCK = 1024
TERMS: dict[str, Term] = {
    "answering": answering,
    "captioning": captioning,
    "classification": classification,
    "contrastive": functools.partial(contrastive, block=BLOCK),
    "masked_language_modeling": masked_language_modeling,
    "masked_patch_modeling": masked_patch_modeling,
    "masked_visual_modeling": masked_visual_modeling,
    "matching": matching,
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
    "sigmoid_contrastive": functools.partial(sigmoid_contrastive, block=BLOCK),
}


@dataclass(frozen=True)
class Objective:
    """What is minimized.

    Attributes:
        weights: the weight of each term.
        inputs: what the model is applied to: fields of the batch, "reference", which is the image itself, "masked",
            the visual tokens to fill in, and "rows", the examples that count for batch statistics.
        reference_dropout, text_dropout: how often, in training, the reference or the text is withheld.
        mask_schedule, label_smoothing, unmasked_weight: of masked visual modeling.
        mlm_mask_ratio: share of the words hidden by masked language modeling.
        mim_mask_ratio: share of the patches hidden by masked patch modeling.
        code_noise_prob: share of a visual tokenizer's codes that its decoder gets wrong in training.
        given: terms beside TERMS, which need more than settings: a discriminator, or a network's weights.
    """

    weights: dict[str, float]
    inputs: tuple[str, ...]
    reference_dropout: float = 0.0
    text_dropout: float = 0.0
    mask_schedule: str = "cosine"
    label_smoothing: float = 0.0
    unmasked_weight: float = 0.0
    mlm_mask_ratio: float = 0.15
    mim_mask_ratio: float = 0.6
    code_noise_prob: float = 0.0
    given: Mapping[str, Term] = field(default_factory=dict)

    def prepare(self, batch: Batch, rng: jax.Array | None) -> dict[str, Any]:
        """The arguments that the model is applied to.

        Without rng as in evaluation: nothing is withheld, and the same tokens are masked whenever it is called.
        """
        key = jax.random.key(0) if rng is None else rng
        given = {"reference": "image", "rows": "mask"}
        seen = {name: batch[given.get(name, name)] for name in self.inputs if name != "masked"}
        if "rows" in seen:
            seen["training"] = rng is not None
        if "masked" in self.inputs:
            seen["masked"] = masking.mask_codes(batch["codes"], jax.random.fold_in(key, 1), self.mask_schedule)
        if "masked_language_modeling" in self.weights:
            seen["hidden_text"] = masking.hide_words(batch["text"], jax.random.fold_in(key, 2), self.mlm_mask_ratio)
        if "masked_patch_modeling" in self.weights:
            seen["hide_patches"] = (jax.random.fold_in(key, 5), self.mim_mask_ratio)
        if "matching" in self.weights:
            there = has_text(batch["text"]) & batch["mask"]
            seen["negatives"] = (jax.random.fold_in(key, 6), text_groups(batch["text"]), there)
        if rng is not None and {"reference", "reference_codes"} & seen.keys() and self.reference_dropout > 0:
            seen["reference_mask"] = jax.random.uniform(rng, batch["mask"].shape) >= jnp.float32(self.reference_dropout)
        if rng is not None and self.code_noise_prob > 0:
            seen["corrupt"] = (jax.random.fold_in(key, 4), self.code_noise_prob)
        if rng is not None and "codes" in seen and self.text_dropout > 0:
            draw = jax.random.uniform(jax.random.fold_in(key, 3), batch["mask"].shape)
            seen["text_mask"] = draw >= jnp.float32(self.text_dropout)
        return seen

    def terms(self, outputs: Outputs, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Each term of each example, not weighted."""
        terms: dict[str, Term] = TERMS | {
            "masked_visual_modeling": functools.partial(
                masked_visual_modeling, label_smoothing=self.label_smoothing, unmasked_weight=self.unmasked_weight
            )
        }
        terms |= self.given
        return {name: terms[name](outputs, batch) for name in self.weights}

    def loss(self, terms: dict[str, jax.Array]) -> jax.Array:
        """The weighted sum of the terms."""
        return sum((jnp.float32(weight) * terms[name] for name, weight in self.weights.items()), jnp.float32(0))


def build(weights: dict[str, float], inputs: Iterable[str], **settings: Any) -> Objective:
    """The objective with these weights; `settings` are the other fields of Objective.

    Raises:
        UserError: for a term that is not in TERMS.
    """
    inputs = tuple(inputs)
    known = (*TERMS, *settings.get("given", ()))
    for name in weights:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"objective.terms.{name}: no such term; {hint}")
    return Objective(dict(weights), inputs, **settings)
