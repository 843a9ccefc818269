"""Sizes and combinations of fields that no type can rule out."""

from mmjax.config.check_data import above_0, check_data, need, not_below_0
from mmjax.config.check_model import check_model
from mmjax.config.fields import Config
from mmjax.config.model_fields import VisualTokenizerConfig


def check(config: Config) -> None:
    """Raises UserError for the first that is impossible."""
    check_data(config.data)
    _check_ranges(config)
    _check_evaluation(config)
    _check_objective(config)
    _check_training(config)
    check_model(config)


def _check_ranges(config: Config) -> None:
    text, train, optimizer = config.text, config.train, config.optimizer
    positive = {
        "text.length": text.length,
        "train.batch": train.batch,
        "train.max_to_keep": train.max_to_keep,
        "evaluate.batch": config.evaluate.batch,
        "optimizer.grad_accum_steps": optimizer.grad_accum_steps,
        "train.log_every": train.log_every,
        "optimizer.learning_rate": optimizer.learning_rate,
        "train.max_nonfinite_steps": train.max_nonfinite_steps,
        "tokens.num_augmentations": config.tokens.num_augmentations,
        "sampling.steps": config.sampling.steps,
        "sampling.temperature": config.sampling.temperature,
        "sampling.refinement_temperature": config.sampling.refinement_temperature,
        "writing.beams": config.writing.beams,
        "writing.temperature": config.writing.temperature,
        "discriminator.learning_rate": config.discriminator.learning_rate,
    }
    above_0(positive)
    not_negative = {
        "train.steps": train.steps,
        "train.epochs": train.epochs,
        "optimizer.grad_clip_norm": optimizer.grad_clip_norm,
        "train.evaluate_every": train.evaluate_every,
        "train.checkpoint_every": train.checkpoint_every,
        "optimizer.warmup_steps": optimizer.warmup_steps,
        "optimizer.weight_decay": optimizer.weight_decay,
        "evaluate.samples": config.evaluate.samples,
        "sampling.guidance": config.sampling.guidance,
        "sampling.confidence_temperature": config.sampling.confidence_temperature,
        "sampling.top_k": config.sampling.top_k,
        "sampling.refinement_steps": config.sampling.refinement_steps,
        "writing.length_penalty": config.writing.length_penalty,
        "discriminator.regularizer_weight": config.discriminator.regularizer_weight,
        "discriminator.train_from": config.discriminator.train_from,
        "objective.unmasked_weight": config.objective.unmasked_weight,
        "mesh.slice": config.mesh.slice,
    }
    not_below_0(not_negative)
    for name in ("b1", "b2", "ema_decay"):
        need(0 <= getattr(optimizer, name) < 1, f"optimizer.{name}: must be from 0 to below 1")
    for name in ("reference_dropout", "text_dropout", "mlm_mask_ratio", "mim_mask_ratio", "code_noise_prob"):
        need(0 <= getattr(config.objective, name) <= 1, f"objective.{name}: must be from 0 to 1")
    need(0 <= config.writing.top_p <= 1, "writing.top_p: must be from 0 to 1")
    need(0 <= config.objective.label_smoothing < 1, "objective.label_smoothing: must be from 0 to below 1")
    need(
        text.vocabulary >= 300,
        f"text.vocabulary: must be at least 300 (all bytes and some pieces), not {text.vocabulary}",
    )


def _check_evaluation(config: Config) -> None:
    need(
        bool(config.evaluate.prompts) and all("{}" in prompt for prompt in config.evaluate.prompts),
        f"evaluate.prompts: needs at least one, each with {{}} where the name of a class goes, not "
        f"{list(config.evaluate.prompts)}",
    )
    need(
        config.writing.beams == 1 or config.writing.top_p == 0,
        "writing.beams, writing.top_p: beam search draws nothing at random; set one of them",
    )


def _check_objective(config: Config) -> None:
    need(bool(config.objective.terms), "objective.terms: name at least one, as in {'mean_squared_error': 1.0}")
    above_0({f"objective.terms.{name}": weight for name, weight in config.objective.terms.items()})
    need(
        config.discriminator.start >= config.discriminator.train_from,
        f"discriminator.start: must not be before discriminator.train_from, {config.discriminator.train_from}",
    )
    need(
        len(config.discriminator.widths) > 0 and min(config.discriminator.widths) > 0,
        "discriminator.widths: needs at least one width, each above 0",
    )
    _check_adversarial(config)


def _check_adversarial(config: Config) -> None:
    terms, second = config.adversarial_terms, config.discriminator
    for name in terms:
        without = " without perceptual.weights" if name == "perceptual" else ""
        need(
            isinstance(config.model, VisualTokenizerConfig),
            f"objective.terms.{name}: needs a discriminator{without}, which only model.kind=visual_tokenizer has, "
            f"not {config.model.kind}",
        )
    need(
        len(terms) < len(config.objective.terms),
        f"objective.terms: {', '.join(terms)} alone show the model no original; add mean_absolute_error",
    )
    for name in ("b1", "b2"):
        need(0 <= getattr(second, name) < 1, f"discriminator.{name}: must be from 0 to below 1")


def _check_training(config: Config) -> None:
    train, optimizer = config.train, config.optimizer
    need(
        train.skip_grad_spikes == 0 or train.skip_grad_spikes > 1,
        f"train.skip_grad_spikes: must be above 1, or 0 to skip none, not {train.skip_grad_spikes:g}",
    )
    need((train.steps > 0) != (train.epochs > 0), "train.steps, train.epochs: set one of the two above 0")
    need(
        optimizer.weight_decay == 0 or optimizer.name != "adam",
        "optimizer.weight_decay: is for optimizer.name=adamw or muon; adam has none",
    )
    need(
        train.batch % optimizer.grad_accum_steps == 0,
        f"optimizer.grad_accum_steps: {optimizer.grad_accum_steps} does not divide train.batch, {train.batch}",
    )
    if config.pretraining is not None:
        need(not train.init_from, "pretraining: is what training starts from, and so is train.init_from; name one")
        need(config.pretraining.model == config.model, "pretraining.model: must be that of the config itself")
    axes = [config.mesh.data, config.mesh.fsdp, config.mesh.model]
    need(
        all(axis > 0 or axis == -1 for axis in axes) and axes.count(-1) <= 1,
        f"mesh: each axis must be above 0, and at most one -1 (all devices left), not {axes}",
    )
