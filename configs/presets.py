"""Settings that several configs share."""

from typing import Any

from ml_collections import ConfigDict

LAPTOP = 64  # largest size in pixels at which the configs of COCO choose a model for a laptop


def optimizer(learning_rate: float, warmup_steps: int, b2: float, ema_decay: float, **settings: Any) -> dict[str, Any]:
    """An optimizer with a cosine schedule after a warm-up, gradient clipping, and an average of the parameters."""
    return {
        "learning_rate": learning_rate,
        "schedule": "cosine",
        "warmup_steps": warmup_steps,
        "b2": b2,
        "grad_clip_norm": 1.0,
        "ema_decay": ema_decay,
        **settings,
    }


def refined_sampling() -> dict[str, Any]:
    """Twelve steps in Halton order and eight of refinement, with guidance, as small masked generators need."""
    return {
        "steps": 12,
        "order": "halton",
        "guidance": 3.0,
        "temperature": 0.7,
        "refinement_steps": 8,
        "refinement_temperature": 0.3,
    }


def tokenizer_losses(adversarial: bool = False) -> dict[str, Any]:
    """Mean absolute and squared error, and optionally the losses of a discriminator."""
    losses = {"mean_absolute_error": {"weight": 1.0}, "mean_squared_error": {"weight": 1.0}}
    return losses | ({name: {"weight": 0.1} for name in ("feature_matching", "adversarial")} if adversarial else {})


def shrink(config: ConfigDict, **model: Any) -> None:
    """Makes training end in seconds: four steps on little data.

    Args:
        model: fields of a smaller model.
    """
    config.data.evaluation_examples = 16
    if "scenes" in config.data:
        config.data.scenes.examples = 64
    else:
        config.update({"text": {"vocabulary": 400}})
    config.model.update(model)
    config.optimizer.warmup_steps = 2
    config.train.update({"batch": 8, "epochs": 0, "steps": 4})
    config.train.update({"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
    config.evaluate.update({"batch": 8, "samples": min(config.evaluate.samples, 4)})
