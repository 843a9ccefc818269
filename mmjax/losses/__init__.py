"""Loss terms, a file per subject, and the training loss, their weighted sum."""

from collections.abc import Callable
from typing import Any

import jax

from mmjax import registry
from mmjax.config import Config
from mmjax.losses import adversarial, contrastive, cross_entropy, masked, pixels
from mmjax.losses.spec import LossSpec, TrainingLoss
from mmjax.types import Batch

__all__ = ["LOSSES", "LossSpec", "TrainingLoss", "adversarial_terms", "build", "find"]

LOSSES: dict[str, LossSpec] = {
    "adversarial": adversarial.ADVERSARIAL,
    "answering": cross_entropy.ANSWERING,
    "captioning": cross_entropy.CAPTIONING,
    "classification": cross_entropy.CLASSIFICATION,
    "contrastive": contrastive.CONTRASTIVE,
    "feature_matching": adversarial.FEATURE_MATCHING,
    "masked_language_modeling": masked.LANGUAGE,
    "masked_patch_modeling": masked.PATCHES,
    "masked_visual_modeling": masked.VISUAL,
    "matching": contrastive.MATCHING,
    "mean_absolute_error": pixels.MEAN_ABSOLUTE_ERROR,
    "mean_squared_error": pixels.MEAN_SQUARED_ERROR,
    "perceptual": pixels.PERCEPTUAL,
    "sigmoid_contrastive": contrastive.SIGMOID,
}


def find(config: Config) -> dict[str, LossSpec]:
    """The specifications of a config's terms, by name."""
    return {name: registry.find("loss", term.kind, f"losses.{name}.kind") for name, term in config.losses.items()}


def adversarial_terms(config: Config) -> tuple[str, ...]:
    """Names of the terms that need a discriminator."""
    return tuple(name for name, spec in find(config).items() if spec.adversarial)


def build(config: Config, inputs: Callable[[Batch, jax.Array | None], dict[str, Any]]) -> TrainingLoss:
    """Builds the training loss of a config; for `inputs` see TrainingLoss."""
    return TrainingLoss(find(config), config.losses, inputs)
