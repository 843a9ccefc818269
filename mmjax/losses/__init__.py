"""Loss terms, one kind per file, and the training loss, their weighted sum."""

from collections.abc import Callable
from typing import Any

import jax

from mmjax import registry
from mmjax.config import Config
from mmjax.losses import (
    adversarial,
    captioning,
    classification,
    contrastive,
    feature_matching,
    masked_language_modeling,
    masked_patch_modeling,
    masked_visual_modeling,
    matching,
    mean_absolute_error,
    mean_squared_error,
    perceptual,
)
from mmjax.losses.spec import LossSpec, TrainingLoss
from mmjax.types import Batch

__all__ = ["LOSSES", "LossSpec", "TrainingLoss", "adversarial_terms", "build", "find"]

LOSSES: dict[str, LossSpec] = {
    "adversarial": adversarial.LOSS,
    "answering": captioning.ANSWERING,
    "captioning": captioning.LOSS,
    "classification": classification.LOSS,
    "contrastive": contrastive.LOSS,
    "feature_matching": feature_matching.LOSS,
    "masked_language_modeling": masked_language_modeling.LOSS,
    "masked_patch_modeling": masked_patch_modeling.LOSS,
    "masked_visual_modeling": masked_visual_modeling.LOSS,
    "matching": matching.LOSS,
    "mean_absolute_error": mean_absolute_error.LOSS,
    "mean_squared_error": mean_squared_error.LOSS,
    "perceptual": perceptual.LOSS,
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
