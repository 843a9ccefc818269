"""Objectives: named terms with weights, added up.

A term is a function of the model's outputs and the batch that gives one loss an example, float32 [b]. To add one,
write the function in a file of its own and name it in TERMS; a recipe weighs it in `objective.terms`.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.objective.mean_absolute_error import mean_absolute_error
from mmjax.objective.mean_squared_error import mean_squared_error
from mmjax.types import Batch, Outputs, UserError

Term = Callable[[Outputs, Batch], Float[Array, "b"]]
TERMS: dict[str, Term] = {
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
}


@dataclass(frozen=True)
class Objective:
    """What is minimized.

    Attributes:
        weights: the weight of each term.
        inputs: what the model is applied to: fields of the batch, and "reference", which is the picture itself.
        drop_reference: how often, in training, the reference is withheld.
    """

    weights: dict[str, float]
    inputs: tuple[str, ...]
    drop_reference: float = 0.0

    def prepare(self, batch: Batch, rng: jax.Array | None) -> dict[str, Any]:
        """The arguments that the model is applied to; without rng as in evaluation, nothing withheld."""
        seen = {name: batch["image" if name == "reference" else name] for name in self.inputs}
        if "reference" in seen and rng is not None and self.drop_reference > 0:
            draw = jax.random.uniform(rng, batch["mask"].shape)
            seen["reference_mask"] = draw >= jnp.float32(self.drop_reference)
        return seen

    def terms(self, outputs: Outputs, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Each term of each example, not weighted."""
        return {name: TERMS[name](outputs, batch) for name in self.weights}

    def loss(self, terms: dict[str, jax.Array]) -> jax.Array:
        """The weighted sum of the terms."""
        return sum((jnp.float32(weight) * terms[name] for name, weight in self.weights.items()), jnp.float32(0))


def build(weights: dict[str, float], inputs: Iterable[str], drop_reference: float = 0.0) -> Objective:
    """Raises UserError for a term that is not in TERMS."""
    for name in weights:
        if name not in TERMS:
            near = difflib.get_close_matches(name, TERMS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(TERMS)}"
            raise UserError(f"objective.terms.{name}: no such term; {hint}")
    return Objective(dict(weights), tuple(inputs), drop_reference)
