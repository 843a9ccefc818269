"""Specification of a loss term, and the training loss."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import Config, LossConfig
from mmjax.types import Batch, Outputs, stream

Prepare = Callable[[Batch, jax.Array, Any], dict[str, Any]]


@dataclass(frozen=True)
class LossSpec:
    """A kind of loss term that a config may name.

    Attributes:
        loss: (outputs of the model, batch, config of the term) -> loss per example, float32 [b]. The batch also holds
            what `prepare` returns.
        needs: names of the model outputs that it reads; models build only what is needed.
        config: its config class.
        prepare: (batch, random key, config of the term) -> additions to the batch [b, ...], such as which tokens are
            masked; the model takes those that it has arguments for. In evaluation it gets one example at a time.
        check: (config of the term, whole config) raises UserError for an invalid config.
        adversarial: whether it needs the discriminator.
        negatives: whether an example's loss depends on the other examples of the batch.
        frozen: (whole config) -> parameters of a frozen network, passed to `loss` in the batch under the term's kind.
        beside: names of the model outputs that another term must train.
        fields: of the data that it reads and the model does not, such as "label".
    """

    loss: Callable[[Outputs, Batch, Any], Float[Array, "b"]]
    needs: tuple[str, ...]
    config: type[LossConfig] = LossConfig
    prepare: Prepare | None = None
    check: Callable[[Any, Config], None] | None = None
    adversarial: bool = False
    negatives: bool = False
    frozen: Callable[[Config], Any] | None = None
    beside: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingLoss:
    """The weighted sum of loss terms.

    Attributes:
        specs, configs: of each term, by its name in the config.
        inputs: (batch, random key or None) -> model inputs that do not depend on the terms.
    """

    specs: Mapping[str, LossSpec]
    configs: Mapping[str, LossConfig]
    inputs: Callable[[Batch, jax.Array | None], dict[str, Any]]

    def prepare(self, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
        """The inputs of the model.

        Without a key, as in evaluation, nothing is dropped, and what is masked in an example follows from its "key"
        uint32 [b] alone: not from the batch that it is in.
        """
        # No loss has a name with a slash.
        inputs = self.inputs(batch, None if key is None else stream(key, "/model"))
        for name, spec in self.specs.items():
            if not spec.prepare:
                continue
            if key is not None:
                inputs |= spec.prepare(batch, stream(key, name), self.configs[name])
            else:
                inputs |= _by_example(spec.prepare, batch, stream(jax.random.key(0), name), self.configs[name])
        return inputs

    def terms(self, outputs: Outputs, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Each term of each example, unweighted."""
        return {name: spec.loss(outputs, batch, self.configs[name]) for name, spec in self.specs.items()}

    def loss(self, terms: Mapping[str, jax.Array]) -> jax.Array:
        """The weighted sum of the terms."""
        return sum((jnp.float32(self.configs[name].weight) * terms[name] for name in self.specs), jnp.float32(0))

    def without(self, names: Iterable[str]) -> "TrainingLoss":
        """The training loss without some of its terms."""
        kept = {name: spec for name, spec in self.specs.items() if name not in set(names)}
        return TrainingLoss(kept, self.configs, self.inputs)


def _by_example(prepare: Prepare, batch: Batch, key: jax.Array, config: Any) -> dict[str, Any]:
    """What `prepare` returns for each example alone, with a random key by the example's."""

    def prepare_one(example: Batch, number: jax.Array) -> dict[str, Any]:
        one = jax.tree.map(lambda x: x[None], example)
        return jax.tree.map(lambda x: x[0], prepare(one, jax.random.fold_in(key, number), config))

    fields = {name: value for name, value in batch.items() if hasattr(value, "shape")}  # else frozen parameters
    return jax.vmap(prepare_one)(fields, batch["key"])
